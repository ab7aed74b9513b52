"""`--codec`: a codec string, or `help` to list them."""

from __future__ import annotations

from typing import Any

import click

from softlabel_codec.cli.output import print_pairs

STRINGS = {
    "marginal_smoothing:k=5": "the 5 most probable classes; the remainder spread evenly",
    "marginal_smoothing:t=0.02": "all classes with at least 2 %; the remainder spread evenly",
    "marginal_smoothing:t=0.1,tail=30": "all with at least 10 %; the remainder spread along a tail: the image's 30 next classes",
    "marginal_smoothing:t=0.05,tail=100": "the same with 5 % and 100 classes",
    "marginal_smoothing:gain=0.005,tail=100": "what gains 0.005 nats over the tail, which lists what gains as much: for few crops",
    "marginal_smoothing:t=0.1,step=1,tail=all,mean=log": "the same with 10 % and all classes: for targets that are softened further",
    "field": "nothing: one function for each image gives the label of every crop, also of those that the teacher did not see",
    "marginal_renorm:k=5": "the 5 most probable classes, scaled to sum to 1",
    "smoothing": "the top class and its probability; the remainder spread evenly",
    "hard": "the top class",
    "dense": "all probabilities",
    "dense:values=log8": "all probabilities as logarithms in steps of 1, for high temperatures in few bytes",
    "dense:content=logits": "all logits; the temperature can be chosen later",
    "dense:values=f16,content=features": "all numbers of the vector of a self-supervised teacher: with --teacher-output features",
}
OPTIONS = {
    "k=5": "number of classes kept of each crop",
    "t=0.02": "instead of k: keep every class with at least this probability, and always the top class",
    "gain=0.005": "instead of k or t, with a tail: keep every class that brings labels nearer to the teacher by so many nats",
    "tail=100": "number of classes in the tail, which is stored once per image; or all",
    "mean=arithmetic": "for tail=all: means of probabilities (arithmetic), or of their logarithms (log), which hold at high temperatures",
    "values=log8": "precision of the probabilities: log8 (log ratios as small integers), f16 or f32; for dense f32 first",
    "step=0.2": "for log8: step in natural logarithms; the default is 0.5 with a tail, 1 for dense",
    "content=probs": "for dense: probs, logits or features",
    "cost=0.0005": "for field: a byte is spent if it lowers the KL from the teacher by this much",
}


class _CodecString(click.ParamType):  # type: ignore[type-arg]  # no parameter before click 8.3
    """A codec string; `help` prints the list of codecs and exits."""

    name = "codec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("help", "--help", "-h") and ctx is not None:
            click.echo("A codec is NAME or NAME:OPTION,OPTION,... It keeps of each crop:\n")
            print_pairs(STRINGS.items())
            click.echo("\nOptions")
            print_pairs(OPTIONS.items())
            click.echo("\nslcodec encode also takes auto, its default: it chooses a codec by the labels of 256 images.")
            ctx.exit()
        return value


CODEC = _CodecString()

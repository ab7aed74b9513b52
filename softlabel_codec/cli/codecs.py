"""`--codec`: a codec string, or `help` for the list of them."""

from __future__ import annotations

from typing import Any

import click

from softlabel_codec.cli.output import print_pairs

STRINGS = {
    "marginal_smoothing:k=5": "the 5 most probable classes; the rest shared evenly",
    "marginal_smoothing:t=0.02": "all classes with at least 2 %; the rest shared evenly",
    "marginal_smoothing:t=0.1,tail=30": "all with at least 10 %; the rest shared along a profile of the image's 30 next classes",
    "marginal_smoothing:t=0.05,tail=100": "likewise, finer",
    "marginal_renorm:k=5": "the 5 most probable classes, scaled to sum to 1",
    "smoothing": "the top class and its probability; the rest shared evenly",
    "hard": "the top class",
    "dense": "all probabilities",
    "dense:content=logits": "all logits, from which labels of any temperature can be made",
}
OPTIONS = {
    "k=5": "how many classes are kept of each crop",
    "t=0.02": "instead of k: which probability a class must have to be kept; the top class always is",
    "tail=100": "so many classes are in the profile of what was left out, once per image",
    "values=log8": "how exactly probabilities are kept: log8 (log ratios in small integers), f16 or f32; of dense f32 or f16",
    "step=0.2": "of log8: size of its steps in natural logarithms; with a tail 0.5 unless said otherwise",
    "content=probs": "of dense: probs or logits",
}


class _CodecString(click.ParamType):  # type: ignore[type-arg]  # no parameter before click 8.3
    """A codec string as it is, or an end with the list of them."""

    name = "codec"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in ("help", "--help", "-h") and ctx is not None:
            click.echo("What is kept of each crop: a name, or NAME:OPTION,OPTION,...\n")
            print_pairs(STRINGS.items())
            click.echo("\nOptions")
            print_pairs(OPTIONS.items())
            ctx.exit()
        return value


CODEC = _CodecString()

"""The text of a page: a template that is filled in, with its style, its script, and the data that the script draws."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from softlabel_codec.report import inspect
from softlabel_codec.show.charts import Chart, histograms
from softlabel_codec.show.facts import facts_of
from softlabel_codec.show.looking import ImageView
from softlabel_codec.show.pairs import Comparison, Sureness, sureness_of
from softlabel_codec.show.pictures import Picture
from softlabel_codec.show.sets import Sets, use_of_remainder
from softlabel_codec.version import __version__

_HERE = Path(__file__).parent


def render(
    sets: Sets,
    shown: Sequence[tuple[ImageView, Picture]],
    crop_size: int,
    comparison: Comparison | None,
    chosen: str,
    asked_for: bool,
) -> str:
    """Return the text of a page.

    Parameters
    ----------
    sets : Sets
        The labels, and others.
    shown : sequence of (ImageView, Picture)
        The images.
    crop_size : int
        Side of a crop as the student gets it, in pixels.
    comparison : Comparison, optional
        How far two sets lie apart.
    chosen : str
        Which images of all these are, in words.
    asked_for : bool
        Whether they were asked for by their keys.
    """
    where = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    reader, partner = sets.reader, sets.partner
    here, there = (sureness_of(reader), None) if comparison is None else (comparison.here, comparison.there)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    facts = facts_of(inspect(reader.path))
    other = None if partner is None else facts_of(inspect(partner.there.path))
    return where.get_template("page.html").render(
        facts=facts,
        other=other,
        charts=_charts([(facts.name, here), *([(other.name, there)] if other and there else [])], reader.num_classes),
        compared=[] if comparison is None else _compared(comparison),
        looked_at=_said_of_distributions(here, len(reader), comparison, "" if partner is None else partner.note),
        chosen=chosen,
        orders=_orders([view for view, _ in shown], asked_for),
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        data=_json(_data(sets, shown, crop_size)),
        version=__version__,
    )


def _charts(sets: Sequence[tuple[str, Sureness]], num_classes: int) -> list[Chart]:
    most = max(float(sure.entropies.max()) for _, sure in sets)
    end = min(math.ceil(2 * most) / 2, math.log(num_classes)) or 0.5
    step = next(step for step in (0.1, 0.25, 0.5, 1, 2, 5) if end / step <= 8)
    return [
        histograms("Largest target of a crop", [(name, sure.maxima) for name, sure in sets], 1, 0.2),
        histograms("Entropy of a crop's label, in nats", [(name, sure.entropies) for name, sure in sets], end, step),
    ]


def _compared(found: Comparison) -> list[tuple[str, str, str]]:
    """Return how far two sets lie apart: names, means over crops, and what 95 % of the crops are below."""
    quantities = {"KL(A ‖ B), nats": found.kl, "cross-entropy, nats": found.cross_entropy, "total variation": found.variation}
    rows = [(name, f"{of.mean:.3f}", f"{of.quantiles['95%']:.3f}") for name, of in quantities.items() if of is not None]
    if found.infinite:
        rows.append(("crops with infinite KL", f"{found.infinite:.1%}", ""))
    if found.same_top is not None:
        rows.append(("same top class", f"{found.same_top:.1%}", ""))
    return rows


def _said_of_distributions(here: Sureness, num_images: int, comparison: Comparison | None, note: str) -> str:
    """Return of which crops the distributions are, and which were compared."""
    crops = f"All {len(here.maxima):,} crops of {here.num_images:,} images"
    if comparison is None:
        return f"{crops}, evenly spread." if here.num_images < num_images else f"{crops}."
    spread = f", of {comparison.common_images:,}," if here.num_images < comparison.common_images else ""
    compared = (
        f"{comparison.num_crops:,} crops are known to both" if comparison.num_crops else note or "no crop lies at the same place in both"
    )
    return f"{crops}{spread} that both have; {compared}."


def _orders(views: Sequence[ImageView], asked_for: bool) -> list[tuple[str, str]]:
    """Return the orders in which images can be shown, and what they are called."""
    orders = [
        ("file", "as asked for" if asked_for else "as in the file"),
        ("unsure", "highest entropy first"),
        ("sure", "lowest entropy first"),
    ]
    if any(view.of_true_class is not None for view in views):
        orders.append(("disagreement", "least of their class first"))
    if any(view.variation is not None for view in views):
        orders.insert(0, ("distance", "farthest apart first"))
    return orders


def _data(sets: Sets, shown: Sequence[tuple[ImageView, Picture]], crop_size: int) -> dict[str, Any]:
    """Return the data that the page's script draws."""
    images = []
    for view, picture in shown:
        images.append({**dataclasses.asdict(view), "padded_size": picture.padded_size, "picture": picture.uri})
    return {
        "crop_size": crop_size,
        "padding": sets.reader.padding.pixels,
        "num_classes": sets.reader.num_classes,
        "remainder": use_of_remainder(sets.reader),
        "names": sets.names.of({number for view, _ in shown for number in view.all_classes()}),
        "images": images,
    }


def _json(values: Any) -> str:
    """Return JSON that may stand in a script element."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")

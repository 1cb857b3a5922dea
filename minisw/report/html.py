"""The small parts that report.py puts together: escaped elements, numbers, tables, two SVG charts, and the style sheet.

Escaping is the default: `element` escapes every child that is not already `Html`, so a text of a model can never become markup.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

NONE = "–"  # what stands for a number that is not there


class Html(str):
    """A string that is markup already."""


def element(tag: str, *children: object, **attributes: object) -> Html:
    """`<tag …>children</tag>`: a child that is not Html is escaped, None is left out. `class_` is class, an inner `_` is `-`."""
    written = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{written}>{join(*children)}</{tag}>")


def join(*children: object) -> Html:
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))


def escape(text: object) -> Html:
    # A bare carriage return would be read back as a line feed.
    return Html(html.escape(str(text)).replace("\r", "&#13;"))


def finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object, signed: bool = False) -> str:
    """Three significant digits, or all digits before the point with thousands separated; "–" for None, NaN and infinity."""
    if not finite(value):
        return NONE
    sign = "+" if signed and value > 0 else ""
    whole = isinstance(value, int) or abs(value) >= 999.5  # where three digits would turn into 1e+03
    return format(value, f"{sign},.0f" if whole else f"{sign}.3g").replace("-", "−")


def interval(value: object, bounds: Sequence[float] | None, signed: bool = False) -> str:
    """`0.447 [0.41, 0.48]`, or the bare number where there are no bounds."""
    if not bounds:
        return number(value, signed)
    return f"{number(value, signed)} [{number(bounds[0], signed)}, {number(bounds[1], signed)}]"


def duration(seconds: object) -> str:
    """`12.3 s`, `3 min 20 s`, `2 h 5 min`, from seconds."""
    if not finite(seconds):
        return NONE
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def grid(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """A table: first column text, the others numbers and right-aligned; it scrolls sideways on a narrow screen."""
    top = element("thead", element("tr", *(element("th", name, scope="col") for name in head))) if head else None
    body = element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows))
    return element("div", element("table", top, body), class_="scroll")


def facts(values: dict) -> Html:
    """A nested dict of plain values as a two-column table, nested names joined by " / "."""
    return grid((), list(_flat(values))) if values else Html("")


def _flat(values: dict, above: str = ""):
    for name, value in values.items():
        name = f"{above}{str(name).replace('_', ' ')}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name} / ")
        elif isinstance(value, list):
            yield name, f"[{', '.join(_plain(v) for v in value)}]"
        else:
            yield name, _plain(value)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    return number(value) if value is None or finite(value) or value != value else str(value)


STYLE = Html("""
:root { color-scheme: light dark; --bg: #fcfcfa; --ink: #1c1c1a; --soft: #5f5e58; --rule: #dcdad2; --card: #f3f2ec;
  --good: #17692f; --good-bg: #e2f3e5; --bad: #a8231b; --bad-bg: #fbe5e2; --none: #5d5c57; --none-bg: #e9e8e2;
  --s0: #2a6fbb; --s1: #b9510a; --s2: #7a4fb5; --s3: #22805c; }
@media (prefers-color-scheme: dark) { :root { --bg: #191917; --ink: #ecebe6; --soft: #aeaca3; --rule: #3b3a36; --card: #24241f;
  --good: #7fd495; --good-bg: #16301d; --bad: #ff9c93; --bad-bg: #401d1a; --none: #b5b3ab; --none-bg: #33322e;
  --s0: #6aa7e8; --s1: #f0935a; --s2: #b79bea; --s3: #6cc7a2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.6rem; } h2 { margin: 2.5rem 0 .25rem; font-size: 1.2rem; }
h3 { margin: 0 0 .25rem; font-size: .95rem; } h2 small { color: var(--soft); font-weight: normal; font-size: .85rem; }
p { margin: .25rem 0 .75rem; } nav a { margin-right: .9rem; color: var(--s0); } .soft, figcaption { color: var(--soft); }
.missing { color: var(--soft); font-style: italic; }
.scroll { overflow-x: auto; margin: .75rem 0; } table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; } td:first-child, th:first-child { text-align: left; padding-left: 0; }
td:not(:first-child) { white-space: nowrap; } td:first-child { min-width: 9rem; }
.claims table { width: 100%; } .claims td:first-child { min-width: 14rem; }
.claims td:nth-child(2), .claims td:nth-child(5), .claims th:nth-child(2), .claims th:nth-child(5) { text-align: left; }
.claims td:nth-child(2), .claims td:nth-child(5) { white-space: normal; min-width: 7rem; }
@media (max-width: 40rem) { .claims thead { display: none; } .claims tr { border-bottom: 1px solid var(--rule); }
  .claims tr, .claims td { display: block; text-align: left; } .claims td { padding: .1rem 0; border: 0; }
  .claims td:nth-child(3)::before { content: "paper: "; } .claims td:nth-child(4)::before { content: "measured: "; }
  .claims td:nth-child(5):not(:empty)::before { content: "against: "; } .claims td:last-child { padding-bottom: .5rem; } }
.badge { display: inline-block; padding: 0 .5rem; border-radius: 1rem; font-size: .8rem; font-weight: 600; white-space: nowrap; }
.good .badge, .badge.good { color: var(--good); background: var(--good-bg); }
.bad .badge, .badge.bad { color: var(--bad); background: var(--bad-bg); }
.none .badge, .badge.none { color: var(--none); background: var(--none-bg); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 1.25rem; }
figure { margin: .75rem 0; max-width: 27rem; } figure.wide { max-width: 44rem; } figcaption { font-size: .85rem; }
figure svg { display: block; overflow: visible; } figure > svg[viewBox] { width: 100%; }
svg text { fill: var(--soft); font-size: 11px; } svg[viewBox] text { font-size: 10px; }
svg text.name { fill: var(--ink); font-size: 13px; }
.key { display: inline-block; margin-right: 1rem; font-size: .8rem; color: var(--soft); } .key svg { display: inline; }
.rule { stroke: var(--rule); } .bar { fill: var(--s0); fill-opacity: .55; } .whisker { stroke: var(--ink); stroke-width: 1.5; }
.line { fill: none; stroke-width: 2; } .line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); stroke-dasharray: 5 3; }
.line.s2 { stroke: var(--s2); stroke-dasharray: 2 3; } .line.s3 { stroke: var(--s3); stroke-dasharray: 8 3 2 3; }
.dot.faint { fill-opacity: 0; }
.dot.s0 { fill: var(--s0); } .dot.s1 { fill: var(--s1); } .dot.s2 { fill: var(--s2); } .dot.s3 { fill: var(--s3); }
article { margin: 1rem 0; padding: .75rem 1rem; border: 1px solid var(--rule); border-radius: .5rem; background: var(--card); }
.question, .text, .analysis, pre { white-space: pre-wrap; } .question { margin-bottom: .5rem; font-weight: 600; }
.step { margin: .3rem 0; border-left: 4px solid var(--none); background: var(--none-bg); border-radius: 0 .3rem .3rem 0; }
.step.good { border-color: var(--good); background: var(--good-bg); }
.step.bad { border-color: var(--bad); background: var(--bad-bg); }
.step .badge { padding: 0; background: none; }
.step > summary { padding: .35rem .6rem; cursor: pointer; list-style: none; }
.step > summary::-webkit-details-marker { display: none; }
.step > summary::before { content: "analysis ▸"; float: right; color: var(--soft); font-size: .8rem; }
.step[open] > summary::before { content: "analysis ▾"; }
.step .text { display: block; font: 14px/1.45 ui-monospace, monospace; margin-top: .2rem; } .step del { color: var(--soft); }
.mark { color: var(--soft); font-size: .8rem; margin-left: .5rem; } .mark.differs { color: var(--bad); font-weight: 600; }
.analysis { padding: .4rem .6rem .6rem; border-top: 1px dashed var(--rule); color: var(--soft); font-size: .9rem; }
.turn { margin: .8rem 0 .1rem; font-size: .85rem; color: var(--soft); } pre { font-size: .85rem; }
""")

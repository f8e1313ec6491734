"""The report's HTML page: styles and structure; no scripts, no requests."""

from __future__ import annotations

from typing import Any

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d2329; --soft: #5b6672; --rule: #d5dbe1;
  --card: #f5f7f9; --good: #177a4d; --bad: #b4323f; }
@media (prefers-color-scheme: dark) { :root { --paper: #13171c; --ink: #e4e8ec; --soft: #98a3af;
  --rule: #3a434d; --card: #1b2128; --good: #4cc38a; --bad: #f0808a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", "PingFang SC", "Microsoft YaHei",
  "Noto Sans CJK SC", sans-serif; font-size: 15px; }
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 48px 0 0; }
.zh { color: var(--soft); margin: 0 0 10px; font-size: 14px; }
.note { color: var(--soft); font-size: 14px; max-width: 78ch; margin: 6px 0 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px;
  margin: 22px 0 0; }
.card { background: var(--card); border-radius: 8px; padding: 14px 16px; }
.card b { display: block; font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
tr.main td { font-weight: 650; background: var(--card); }
svg { display: block; width: 100%; height: auto; margin: 10px 0; color: var(--ink); }
svg text { font-family: inherit !important; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px; }
.sample { border: 1px solid var(--rule); border-radius: 8px; padding: 12px 16px; margin: 10px 0;
  overflow-wrap: anywhere; }
.sample .ask { font-weight: 600; margin: 0 0 8px; white-space: pre-wrap; }
.sample .why { color: var(--soft); font-size: 12.5px; margin: 0 0 2px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
@media (max-width: 640px) { .pair { grid-template-columns: 1fr; } }
.pair p { margin: 0; white-space: pre-wrap; }
.pair .who { color: var(--soft); font-size: 12.5px; }
.up { color: var(--good); } .down { color: var(--bad); }
footer { margin-top: 56px; padding-top: 12px; color: var(--soft); font-size: 13px;
  border-top: 1px solid var(--rule); }
code { font-size: 13px; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="zh">{{ title_zh }}</p>
<p class="note">{{ lead }}</p>
{% if cards %}<div class="cards">
{% for card in cards %}<div class="card">
<span>{{ card.title }}</span><b>{{ card.value }}</b><span>{{ card.note }}</span></div>
{% endfor %}</div>{% endif %}
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
<p class="zh">{{ section.zh }}</p>
{% if section.note %}<p class="note">{{ section.note }}</p>{% endif %}
{% if section.table %}<div class="scroll"><table>
<thead><tr>{% for cell in section.table.head %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in section.table.rows %}
<tr{% if row.main %} class="main"{% endif %}><td>
{%- if row.colour %}<i class="dot" style="background: {{ row.colour }}"></i>{% endif %}{{ row.name }}</td>
{%- for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>{% endif %}
{% for svg in section.figures %}{{ svg | safe }}{% endfor %}
{% for sample in section.samples %}<div class="sample">
<p class="why">{{ sample.why }}</p>
<p class="ask">{{ sample.prompt }}</p>
<div class="pair">{% for reply in sample.replies %}<div>
<p class="who">{{ reply.name }} &middot; <span class="{{ reply.trend }}">{{ reply.measure }}</span></p>
<p>{{ reply.text or "(nothing)" }}</p>
</div>{% endfor %}</div></div>{% endfor %}
</section>
{% endfor %}
<footer>{{ footer }}</footer>
</main>
</body>
</html>
"""


def render_page(**values: Any) -> str:
    """The page as one HTML text; everything but the plots is escaped.

    Args:
        values: `title`, `title_zh`, `lead`, `cards` [{title, value, note}], `sections` [{title, zh, note?,
            table?, figures?, samples?}] and `footer`.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined)
    return environment.from_string(_PAGE).render(style=STYLE, **values)

"""The page's structure, for jinja2 with every text escaped."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="zh">评测报告：各任务的结果、置信区间与样本</p>
<p class="note">{{ lead }}</p>
<div class="cards">
{% for card in cards %}
<div class="card"><span>{{ card.title }}</span><b>{{ card.value }}</b><span>{{ card.note }}</span></div>
{% endfor %}
</div>
{% for note in notes %}
<p class="note">{{ note }}</p>
{% endfor %}

{% macro plot(lines, ticks) %}
<div class="plot">
{% for line in lines %}
<div class="row"><span class="name">{{ line.name }}</span>
<span class="line" aria-hidden="true">
{%- for place, text in ticks %}<i class="grid" style="left: {{ place }}%"></i>{% endfor %}
{%- if line.zero is defined and line.zero is not none -%}
<i class="zero" style="left: {{ line.zero }}%"></i>
{%- endif %}
{%- if line.bar -%}
<i class="bar" style="left: {{ line.bar[0] }}%; width: {{ line.bar[1] }}%; background: {{ line.colour }}"></i>
{%- endif %}
{%- if line.dot is not none -%}
<i class="spot" style="left: {{ line.dot }}%; background: {{ line.colour }}"></i>
{%- endif -%}
</span>
<span class="told {{ line.verdict }}">{{ line.text }}</span></div>
{% endfor %}
{% if ticks %}
<div class="row"><span class="name"></span><span class="ticks" aria-hidden="true">
{%- for place, text in ticks %}<span style="left: {{ place }}%">{{ text }}</span>{% endfor -%}
</span><span class="told"></span></div>
{% endif %}
</div>
{% endmacro %}

<section>
<h2>Results</h2>
<p class="zh">结果：每个任务的主要指标；下方为与第一个模型的差</p>
<div class="scroll"><table class="table">
<thead><tr><th scope="col">task</th>
{% for model in overview.models %}<th scope="col">{{ model }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in overview.rows %}
<tr><th scope="row"><a href="#{{ row.anchor }}">{{ row.name }}</a><small>{{ row.metric }}</small></th>
{% for cell in row.cells %}
<td>{{ cell.value }}
{%- if cell.change %}<small class="{{ cell.verdict }}">{{ cell.change }}</small>{% endif %}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% if overview.models | length > 1 %}
<p class="note">Below a number: its difference to {{ overview.models[0] }} on the same items, with its paired
interval; in colour where the interval does not hold 0. One interval in twenty misses 0 by chance alone.</p>
{% endif %}
</section>

{% if sides %}
<section>
<h2>Side by side</h2>
<p class="zh">两两比较：对齐之后，哪些变好，哪些变差（对齐税）</p>
<p class="note">One model less another, task by task; each line has a scale of its own, with 0 in the
middle.</p>
{% for side in sides %}
<details{% if loop.first %} open{% endif %}>
<summary>{{ side.ours }} less {{ side.theirs }}: better on {{ side.better }}, worse on {{ side.worse }}, no
clear difference on {{ side.neither }}</summary>
{{ plot(side.plots, []) }}
</details>
{% endfor %}
</section>
{% endif %}

{% for figure in figures %}
<section>
<h2>{{ figure.title }}</h2>
{% if figure.note %}<p class="note">{{ figure.note }}</p>{% endif %}
<div class="scroll wide">{{ figure.svg | safe }}</div>
</section>
{% endfor %}

<section>
<h2>Task by task</h2>
<p class="zh">各任务：全部指标，以及每个数字如何得来</p>
{% for task in tasks %}
<h3 id="{{ task.anchor }}">{{ task.title }}</h3>
<p class="note">{{ task.metric }}; {{ task.count }}.{% if task.source %} {{ task.source }}{% endif %}
{% if task.unpaired %} <span class="worse">Not compared: {{ task.unpaired }}.</span>{% endif %}</p>
{{ plot(task.lines, task.ticks) }}
{% if task.table %}
<div class="scroll"><table>
<thead><tr><th scope="col">metric</th>
{% for model in task.models %}<th scope="col">{{ model }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in task.table %}
<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
<details>
<summary>How these numbers were made</summary>
<dl>
{% for entry in task.made %}
<dt><b>{{ entry.model }}</b></dt><dd></dd>
{% for key, text in entry.facts %}
<dt>{{ key }}</dt><dd><code>{{ text }}</code></dd>
{% endfor %}
{% endfor %}
</dl>
</details>
{% endfor %}
</section>

{% if items %}
<section>
<h2>Samples</h2>
<p class="zh">样本浏览：按任务筛选、全文搜索</p>
<div class="tools">
<label class="visually-hidden" for="query">Search in all texts</label>
<input id="query" type="search" placeholder="Search in all texts" autocomplete="off">
<label class="visually-hidden" for="task">Task</label>
<select id="task"><option value="">all tasks</option>
{% for task in tasks %}<option value="{{ loop.index0 }}">{{ task.title }}</option>{% endfor %}
</select>
<label class="visually-hidden" for="kind">Which items</label>
<select id="kind"><option value="">all items</option><option value="differ">models differ</option></select>
</div>
<p class="note" id="count" role="status"></p>
<div id="samples"></div>
<button id="more" type="button" hidden>Show more</button>
<noscript><p class="note">The samples need JavaScript; nothing is loaded from anywhere.</p></noscript>
<script type="application/json" id="samples-data">{{ data | safe }}</script>
<script>{{ script | safe }}</script>
</section>
{% endif %}

<footer>
{% for model in made %}
<p>{{ model.name }}: <code>{{ model.spec }}</code>
{%- if model.identity %} ({{ model.identity }}){% endif %}</p>
{% endfor %}
</footer>
</main>
</body>
</html>
"""

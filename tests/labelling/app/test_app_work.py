"""The labelers' pages as a browser without JavaScript uses them, down to what is exported."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from instructgpt.labelling.app.texts import translator
from instructgpt.labelling.store import export, imports, projects, queue, review, screening
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.form import RankAnswer
from instructgpt.labelling.store.projects import Project

Visit = Callable[..., Any]
Make = Callable[..., Project]


def keys(visitor: Any) -> list[str]:
    """Keys of the replies on a page, in the order shown."""
    names = visitor.page.forms
    found = next(form for form in names if form.action == visitor.path)
    return list(dict.fromkeys(name for name in _ordered(visitor) if name in found.names))


def _ordered(visitor: Any) -> list[str]:
    tags = [attributes.get("name") or "" for tag, attributes in visitor.page.tags if tag == "input"]
    return [name for name in dict.fromkeys(tags) if name.startswith("rank-")]


def ranked(visitor: Any, ranks: list[int], ratings: list[int]) -> dict[str, Any]:
    """The fields of a ranking, in the order shown."""
    names = keys(visitor)
    fields: dict[str, Any] = dict(zip(names, ranks, strict=True))
    fields |= {name.replace("rank-", "rating-"): rating for name, rating in zip(names, ratings, strict=True)}
    return fields


def test_a_ranking_comes_out_as_it_was_made(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    """Field fault 37: every ranking saved as 1, 2, 3."""
    made = project("rank", count=1, valid=0.0)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    names = keys(lea)
    texts = [t for t in ("Reply 0 to 0.", "Reply 1 to 0.", "Reply 2 to 0.")]
    shown = sorted(texts, key=lea.response.text.index)
    assert "model-" not in lea.response.text
    flag = names[1].replace("rank-", "flag-")
    fields = ranked(lea, [2, 3, 2], [6, 1, 5]) | {flag: ["hallucination", "harmful_advice"]}
    lea.send(lea.path, **fields, note="two alike")
    assert lea.path == f"/projects/{made.id}/work" and "All done" in lea.text
    rows, _ = export.export_rows(store, made.id, by=None)
    (row,) = rows["rankings_train"]
    found = {r["text"]: (r["rank"], r["rating"], sorted(r.get("flags", []))) for r in row["responses"]}
    # The second reply shown is worst; the two others share the first place (2, 3, 2 closes up to 1, 2, 1).
    assert found == {
        shown[0]: (1, 6, []),
        shown[1]: (2, 1, ["hallucination", "harmful_advice"]),
        shown[2]: (1, 5, []),
    }
    pairs = {(p["chosen"], p["rejected"]) for p in rows["preferences_train"]}
    flat = {tuple(part if isinstance(part, str) else part[-1]["content"] for part in pair) for pair in pairs}
    assert flat == {(shown[0], shown[1]), (shown[2], shown[1])}


def test_what_is_missing_is_said_and_the_rest_kept(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=1)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    names = keys(lea)
    lea.send(lea.path, **{names[0]: 1, names[1].replace("rank-", "rating-"): 4, "note": "so far"})
    assert lea.status == 422
    for problem in ("Reply A has no rating", "Reply B has no place", "Reply C has no rating"):
        assert problem in lea.text
    assert "Reply A has no place" not in lea.text and "Reply B has no rating" not in lea.text
    kept = lea.form(lea.path).fields
    assert (names[0], "1") in kept and ("note", "so far") in kept
    assert review.labels(store, made.id, by=None) == []


def test_a_second_click_makes_one_label(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=2)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    form, path = lea.form(lea.path), lea.path
    data = dict(form.fields) | {k: str(v) for k, v in ranked(lea, [1, 2, 3], [7, 4, 1]).items()}
    answers = [lea.client.post(path, data=data, follow_redirects=False) for _ in range(3)]
    assert [a.headers["location"] for a in answers] == [f"/projects/{made.id}/work"] * 3
    assert len(review.labels(store, made.id, by=None)) == 1


def test_a_second_tab_with_another_answer_is_told_what_was_kept(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=2)
    one, two = visit("lea"), visit("lea")
    one.get(f"/projects/{made.id}/work")
    two.get(f"/projects/{made.id}/work")
    assert one.path == two.path
    first, second = ranked(one, [1, 2, 3], [7, 4, 1]), ranked(two, [3, 2, 1], [1, 4, 7])
    one.send(one.path, **first)
    two.send(two.path, **second)
    assert "another tab" in two.text and two.path.startswith("/mine/")
    (label,) = review.labels(store, made.id, by=None)
    assert isinstance(label.answer, RankAnswer)
    assert (one.path, "place" in two.text.lower()) == (one.path, True)
    two.send(two.path, **second)  # and may change it on purpose
    (changed,) = review.labels(store, made.id, by=None)
    assert changed.answer != label.answer


def test_a_script_gets_the_next_address_or_the_problems(
    visit: Visit, people_here: dict[str, int], project: Make
) -> None:
    made = project("rank", count=1)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    path, fields = lea.path, dict(lea.form(lea.path).fields)
    ready = fields | {k: str(v) for k, v in ranked(lea, [1, 1, 1], [1, 1, 1]).items()} | {"all_bad": "1"}
    json_ = {"accept": "application/json"}
    missing = lea.client.post(path, data=fields, headers=json_)
    assert missing.status_code == 422 and len(missing.json()["problems"]) == 6
    stale = lea.client.post(path, data=ready | {"csrf": "old"}, headers=json_)
    assert stale.status_code == 403 and stale.json()["stale"] is True
    fresh = lea.client.get("/api/token", headers=json_).json()["csrf"]
    done = lea.client.post(path, data=ready | {"csrf": fresh}, headers=json_)
    assert done.json() == {"next": f"/projects/{made.id}/work"}
    lea.client.cookies.delete("label_session")
    assert lea.client.post(path, data=ready, headers=json_).status_code == 401


def test_an_answer_that_comes_late_is_kept_while_nobody_else_has_the_task(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store, clock: Any
) -> None:
    made = project("rank", count=1, lease_minutes=5)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    clock.now += 600
    queue.return_expired(store)
    lea.send(lea.path, **ranked(lea, [1, 2, 3], [7, 4, 1]))
    assert len(review.labels(store, made.id, by=None)) == 1, lea.text


def test_demonstrations_of_several_turns(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("demonstration", count=1, valid=0.0)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    assert lea.send(lea.path, **{"turn-0": "   "}).status == 422 and "The reply is empty" in lea.text
    lea.send(lea.path, **{"turn-0": "First.", "action": "more"})
    lea.send(lea.path, **{"turn-1": "And then?", "turn-2": "Second.", "action": "more"})
    assert dict(lea.form(lea.path).fields)["turn-2"] == "Second."
    lea.get(lea.path)  # another visit: the draft is on the server
    assert dict(lea.form(lea.path).fields)["turn-1"] == "And then?"
    lea.send(lea.path, action="fewer").send(lea.path, note="short")
    rows, _ = export.export_rows(store, made.id, by=None)
    (row,) = rows["demonstrations_train"]
    assert [m["content"] for m in row["prompt"]] == ["Question 0?", "First.", "And then?"]
    assert row["response"] == "Second."


def test_prompts_of_three_styles(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("prompt", count=0)
    lea, ada = visit("lea"), visit("ada")
    for style, brief in (("plain", ""), ("few-shot", ""), ("user-based", "A shop & its letters")):
        ada.get(f"/admin/projects/{made.id}/tasks")
        ada.send(f"/admin/projects/{made.id}/requests", count=1, style=style, brief=brief)
        assert "1 prompt was added" in ada.text
        lea.get(f"/projects/{made.id}/work")
        if style == "few-shot":
            lea.send(lea.path, **{"text": "Translate.", "query-0": "a", "response-0": "b"})
            assert lea.status == 422 and "at least 2 examples" in lea.text
            lea.send(lea.path, action="more")
            fields = {"query-1": "c", "response-1": "d", "query-2": "e"}
            assert "Example 3 needs both" in lea.send(lea.path, **fields).text
            lea.send(lea.path, **{"response-2": "f"})
        else:
            assert (brief in lea.text) is bool(brief) or not brief
            lea.send(lea.path, text=f"A {style} prompt.", category="chat")
        assert "All done" in lea.text, lea.text
    texts = sorted(label.answer.text for label in review.labels(store, made.id, by=None))  # type: ignore[union-attr]
    assert texts == ["A plain prompt.", "A user-based prompt.", "Translate."]


@pytest.mark.parametrize(("choice", "ranks"), [(0, [1, 2]), (1, [2, 1]), ("tie", [1, 1])])
def test_comparisons(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store, choice: Any, ranks: list[int]
) -> None:
    made = project("compare", count=1)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    assert "Choose the better reply" in lea.send(lea.path).text
    radios = [a["value"] for tag, a in lea.page.tags if tag == "input" and a.get("name") == "choice"]
    assert radios[1] == "tie"
    shown = [radios[0], radios[2]]
    lea.send(lea.path, choice=choice if choice == "tie" else shown[choice])
    (label,) = review.labels(store, made.id, by=None)
    by_position = {int(j.reply): j.rank for j in label.answer.judgements}  # type: ignore[union-attr]
    assert [by_position[position] for position in label.shown] == ranks


def test_skipping_needs_a_reason_and_is_done_once(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=2)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    first = lea.path
    assert "Choose a reason" in lea.send(f"{first}/skip").text
    data = dict(lea.form(f"{first}/skip").fields) | {"reason": "disturbing"}
    for _ in range(2):
        assert lea.client.post(f"{first}/skip", data=data, follow_redirects=False).status_code == 303
    assert lea.get(f"/projects/{made.id}/work").path != first
    assert lea.get(first).status == 404


def test_the_labelers_own_work_and_changing_it(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=2)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    first = lea.path
    lea.send(lea.path, **ranked(lea, [1, 2, 3], [7, 4, 1]))
    assert lea.get(first).path == first.replace("/tasks/", "/mine/")
    lea.get(f"/projects/{made.id}/mine")
    lea.get(next(link for link in lea.page.links if link.startswith("/mine/")))
    assert sorted(v for k, v in lea.form(lea.path).fields if k.startswith("rank-")) == ["1", "2", "3"]
    lea.send(lea.path, **ranked(lea, [1, 1, 1], [2, 2, 2]))
    (label,) = review.labels(store, made.id, by=None)
    assert {j.rank for j in label.answer.judgements} == {1}  # type: ignore[union-attr]
    assert visit("lou").get(first.replace("/tasks/", "/mine/")).status == 404


def test_examples_come_before_work_and_a_test_before_both(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=1, pass_mark=0.9)
    # Words that stand nowhere else on the page ("best" is also the label of the first place).
    texts = ("Reply number one.", "Reply number two.", "Reply number three.")
    replies = [{"text": text, "rank": n + 1} for n, text in enumerate(texts)]
    known = {"prompt": "Known?", "explanation": "Because.", "responses": replies}
    for purpose in ("onboarding", "screening"):
        row = dict(known, prompt=f"{purpose}?")
        imports.import_tasks(
            store, made.id, ("x.jsonl", json.dumps(row).encode()), by=people_here["ada"], purpose=purpose
        )
    lea = visit("lea").get(f"/projects/{made.id}/work")
    assert lea.path == f"/projects/{made.id}/examples" and "Because." in lea.text and "place 3" in lea.text
    lea.send(lea.path)
    assert "Test: the last question" in lea.text and not any("/skip" in f.action for f in lea.page.forms)
    shown = sorted(texts, key=lea.response.text.index)
    wrong = [3 - texts.index(text) for text in shown]
    lea.send(lea.path, **ranked(lea, wrong, [4, 4, 4]))
    assert lea.status == 403 and "not passed" in lea.text
    ada = visit("ada").get(f"/admin/projects/{made.id}/members")
    assert "not passed" in ada.text
    ada.send(f"/admin/projects/{made.id}/members", person=people_here["lea"], action="passed")
    lea.get(f"/projects/{made.id}/work")
    assert "Question 0?" in lea.text
    assert screening.screening_answers(store, made.id, people_here["lea"], by=None)[0].score == 0.0


def test_written_answers_of_a_test_wait_for_a_reviewer(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("demonstration", count=1)
    row = json.dumps({"prompt": "Test?"}).encode()
    imports.import_tasks(store, made.id, ("x.jsonl", row), by=people_here["ada"], purpose="screening")
    lea = visit("lea").get(f"/projects/{made.id}/work")
    lea.send(lea.path, **{"turn-0": "My best."})
    assert lea.status == 403 and "being read" in lea.text
    rex = visit("rex").get(f"/admin/projects/{made.id}/labels?purpose=screening")
    rex.get(next(link for link in rex.page.links if "/labels/" in link and "?" not in link))
    rex.send(rex.path, action="grade", score=95)
    assert lea.get(f"/projects/{made.id}/work").path.startswith("/tasks/")


def test_quotas_and_closed_projects_are_states_not_errors(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store
) -> None:
    made = project("rank", count=3, quota_per_day=1)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    lea.send(lea.path, **ranked(lea, [1, 2, 3], [7, 4, 1]))
    assert lea.status == 200 and "Enough for today" in lea.text
    projects.set_status(store, made.id, "closed", by=None)
    assert lea.get(f"/projects/{made.id}/work").status in (200, 404)


def test_a_draft_is_kept_on_the_server(
    visit: Visit, people_here: dict[str, int], project: Make, store: Store, clock: Any
) -> None:
    made = project("demonstration", count=1, lease_minutes=10)
    lea = visit("lea").get(f"/projects/{made.id}/work")
    held = queue.lease(store, people_here["lea"], int(lea.path.rsplit("/")[-1]))
    clock.now += 60
    body = {"token": held.token, "at": 1.0, "entries": [["turn-0", "half a sen\x00tence"]]}
    csrf = {"x-csrf": dict(lea.form(lea.path).fields)["csrf"]}
    assert lea.client.put("/api/draft", json=body).status_code == 403
    renewed = lea.client.put("/api/draft", json=body, headers=csrf)
    assert renewed.json() == {"expires_at": clock.now + 600}
    assert dict(visit("lea").get(lea.path).form(lea.path).fields)["turn-0"] == "half a sentence"
    assert visit("lou").client.put("/api/draft", json=body, headers=csrf).status_code == 403
    other = visit("lou").get("/")
    lous = {"x-csrf": next(v for k, v in other.page.forms[0].fields if k == "csrf")}
    assert other.client.put("/api/draft", json=body, headers=lous).status_code == 404


def test_languages_by_header_by_switch_and_by_person(visit: Visit, people_here: dict[str, int]) -> None:
    zh, en = translator("zh"), translator("en")
    lea = visit("lea").get("/", headers={"accept-language": "fr;q=0.9, zh-CN;q=0.8, en;q=0.1"})
    assert zh("home.title") in lea.text and 'lang="zh-Hans"' in lea.response.text
    assert en("home.title") in lea.get("/").text
    lea.send("/preferences", language="zh")
    assert zh("home.title") in lea.get("/").text
    assert zh("home.title") in visit("lea").get("/").text  # remembered at the next log-in
    lea.send("/preferences", theme="dark")
    assert 'data-theme="dark"' in lea.get("/").response.text
    lea.send("/preferences", theme="pink", language="xx")
    assert 'data-theme="dark"' in lea.get("/").response.text


def test_the_download_holds_what_the_stages_read(
    visit: Visit, people_here: dict[str, int], project: Make
) -> None:
    made = project("rank", count=1, valid=0.0, name="Ätna / 项目")
    lea = visit("lea").get(f"/projects/{made.id}/work")
    lea.send(lea.path, **ranked(lea, [1, 2, 3], [7, 4, 1]), all_bad=1)
    ada = visit("ada").get(f"/admin/projects/{made.id}/export")
    assert "rankings_train.jsonl" in ada.text
    ada.send(f"/admin/projects/{made.id}/export.zip")
    assert ada.response.headers["content-disposition"] == 'attachment; filename="tna.zip"'
    with zipfile.ZipFile(io.BytesIO(ada.response.content)) as archive:
        (row,) = [json.loads(line) for line in archive.read("rankings_train.jsonl").splitlines()]
    assert [r["rank"] for r in sorted(row["responses"], key=lambda r: r["rank"])] == [1, 2, 3]
    assert "lea" not in json.dumps(row)
    ada.get(f"/admin/projects/{made.id}/export").send(
        f"/admin/projects/{made.id}/export.zip", without_all_bad=1
    )
    with zipfile.ZipFile(io.BytesIO(ada.response.content)) as archive:
        assert "rankings_train.jsonl" not in archive.namelist()

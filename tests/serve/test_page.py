"""The page in Debian's Chromium: every flow, no violation of axe-core's rules or of the security policy, in any state.

They need Chromium (`make browser`) and skip without it.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpt2
from gpt2 import tasks
from gpt2.detect import Calibration
from gpt2.detect.calibration import LENGTHS
from gpt2.tasks import Prompts

axe_package = pytest.importorskip("axe_playwright_python")
playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
LONG = 120_000  # milliseconds, longer than anything takes; nothing waits for it to pass
expect.set_options(timeout=LONG)

AXE = (Path(axe_package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
FOLDER = Path(gpt2.__file__).parent / "serve" / "page"

pytestmark = pytest.mark.long


class Visit:
    """The page in a window, and everything that went wrong in it."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.url, self.wrong, self.asked = url, [], []
        options = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"} | options
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(LONG)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        self.page.on(
            "console", lambda message: message.type == "error" and self.wrong.append(f"console: {message.text}")
        )
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.add_init_script(
            "window.violations = []; document.addEventListener('securitypolicyviolation', "
            "(event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`))"
        )
        self.open()

    def open(self) -> None:
        self.page.goto(self.url)
        expect(self.page.locator("#state")).to_have_attribute("data-state", "ready")

    def __getitem__(self, selector: str) -> Any:
        return self.page.locator(selector)

    @property
    def text(self) -> str:
        return self["#text"].input_value()

    def write(self, text: str) -> None:
        """Replace the document, and wait until the model has read it."""
        self["#text"].fill(text)
        self.wait_until_read()

    def wait_until_read(self) -> None:
        text = re.sub(r"\s+", "", self.text)
        self.page.wait_for_function(
            "(text) => [...document.querySelectorAll('#mirror .t')].map((t) => t.textContent).join('')"
            ".replace(/\\s+/g, '') === text",
            arg=text,
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def generate(self) -> str:
        """Generate at the caret; the document afterwards."""
        self.press("Control+Enter")
        expect(self["#progress"]).to_contain_text("a second")
        return self.text

    def set(self, **settings: Any) -> None:
        if any(name not in ("max_tokens", "temperature", "top_k", "top_p", "n") for name in settings):
            self["details.more"].evaluate("(details) => { details.open = true; }")
        for name, value in settings.items():
            self[f"#set-{name}"].fill(str(value))

    def axe(self, state: str) -> None:
        """Nothing that axe-core's rules forbid."""
        self.page.evaluate(f"() => {{ if (!window.axe) {{ {AXE} }} }}")
        found = self.page.evaluate("axe.run({ resultTypes: ['violations'] })")
        problems = [
            f"{state}: {each['id']}: {node['html'][:200]} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]
        assert not problems, "\n".join(problems)

    def close(self) -> None:
        violations = self.page.evaluate("window.violations")
        self.context.close()
        assert violations == []
        assert self.wrong == []
        assert [url for url in self.asked if not url.startswith(self.url)] == []


@pytest.fixture
def visit(browser: Any, tiny: Any) -> Iterator[Visit]:
    visit = Visit(browser, tiny.url)
    visit.set(max_tokens=12, seed=7)
    yield visit
    visit.close()


# --- writing ---------------------------------------------------------------------------------------------------------


def completed(tiny: Any, prompt: str, **settings: Any) -> str:
    """What the endpoint itself continues a text with, by the settings that the page begins with."""
    body = {"prompt": prompt, "max_tokens": 12, "temperature": 0.8, "top_k": 40, "seed": 7} | settings
    return tiny.request("POST", "/v1/completions", body)[2]["choices"][0]["text"]


def test_a_text_goes_on_from_the_caret_and_back_by_undo(visit: Visit, tiny: Any) -> None:
    visit.write("Once upon a time")
    visit.press("Control+Home", *["ArrowRight"] * 4)
    first = completed(tiny, "Once")
    assert visit.generate() == f"Once{first} upon a time"
    assert visit["#text"].evaluate("(area) => area.selectionEnd") == len("Once" + first)
    visit.wait_until_read()

    visit["#continue"].click()
    second = completed(tiny, "Once" + first)
    expect(visit["#text"]).to_have_value(f"Once{first}{second} upon a time")
    expect(visit["#generate"]).to_be_visible()  # until it has ended nothing is undone
    visit["#text"].focus()
    visit.press("Control+z")
    expect(visit["#text"]).to_have_value(f"Once{first} upon a time")
    visit["#undo"].click()
    expect(visit["#text"]).to_have_value("Once upon a time")
    visit["#redo"].click()
    expect(visit["#text"]).to_have_value(f"Once{first} upon a time")
    visit["#text"].focus()
    visit.press("Control+Shift+z")
    expect(visit["#text"]).to_have_value(f"Once{first}{second} upon a time")
    expect(visit["#redo"]).to_be_disabled()


def test_another_try_is_another_text(visit: Visit) -> None:
    visit.write("Once")
    first = visit.generate()
    visit["#again"].click()
    expect(visit["#text"]).not_to_have_value(first)
    expect(visit["#generate"]).to_be_visible()
    assert visit.text.startswith("Once")
    visit["#text"].focus()
    visit.press("Control+z", "Control+z")  # the second try, and taking the first away
    expect(visit["#text"]).to_have_value(first)


def test_typing_is_undone_in_words_and_nothing_is_lost_by_a_reload(visit: Visit) -> None:
    visit["#text"].press_sequentially("The cat")
    visit.write("The cat sat")
    visit.set(temperature=1.3)
    visit.page.wait_for_function("() => localStorage.getItem('gpt2-document') === 'The cat sat'")
    visit.page.wait_for_function("() => (localStorage.getItem('gpt2-settings') ?? '').includes('1.3')")
    visit.open()
    assert visit.text == "The cat sat"
    assert visit["#set-temperature"].input_value() == "1.3"
    assert visit["#slide-temperature"].input_value() == "1.3"


def test_what_broke_off_is_what_is_tried_again(visit: Visit) -> None:
    visit.write("Once")
    before = visit.generate()
    broken = (
        {"choices": [{"index": 0, "text": " and then", "finish_reason": None}]},
        {"error": {"message": "It failed."}},
    )
    lines = "".join(f"data: {json.dumps(each)}\n\n" for each in broken)
    visit.page.route(
        "**/v1/completions",
        lambda route: route.fulfill(body=lines, headers={"content-type": "text/event-stream"}),
        times=1,
    )
    visit["#continue"].click()
    expect(visit["#alert"]).to_contain_text("It failed.")
    assert visit.text == before + " and then"
    visit["#again"].click()
    expect(visit["#progress"]).to_contain_text("a second")
    assert visit.text.startswith(before) and not visit.text.endswith(" and then")


def test_each_window_keeps_its_own_text_and_the_last_letter_of_it(visit: Visit) -> None:
    kept = "(text) => localStorage.getItem('gpt2-document') === text"
    visit["#text"].fill("The first window")
    visit.page.wait_for_function(kept, arg="The first window")
    other = visit.context.new_page()
    other.goto(visit.url)
    other.locator("#text").fill("The second window")
    other.wait_for_function(kept, arg="The second window")
    visit.open()
    assert visit.text == "The first window"
    other.locator("#text").fill("The second window, changed")
    other.reload()  # at once
    assert other.locator("#text").input_value() == "The second window, changed"
    visit.open()  # where nothing was written since, nothing is kept
    visit.open()
    assert visit.page.evaluate(kept, "The second window, changed")


def test_a_text_that_is_being_read_is_said_to_be(visit: Visit) -> None:
    held: list[Any] = []
    visit.page.route("**/v1/inspect", lambda route: held.append(route), times=1)
    visit["#text"].fill("Once upon a time")
    expect(visit["#facts"]).to_have_text("The model reads the text…")
    held[0].continue_()
    expect(visit["#facts"]).to_contain_text("4 tokens")


def test_a_text_in_arabic_runs_from_right_to_left_and_one_in_latin_beside_it_does_not(visit: Visit) -> None:
    visit.write("مرحبا بالعالم.\nOnce upon a time.")
    box = visit["#mirror"].bounding_box()
    middle = box["x"] + box["width"] / 2
    first, last = visit["#mirror .t"].first.bounding_box(), visit["#mirror .t"].last.bounding_box()
    assert first["x"] > middle > last["x"]
    styles = "(e) => { const s = getComputedStyle(e); return [s.unicodeBidi, s.textAlign]; }"
    assert visit["#text"].evaluate(styles) == visit["#mirror"].evaluate(styles) == ["plaintext", "start"]


def test_what_is_said_and_what_can_be_done_stay_in_view_beside_a_long_text(visit: Visit) -> None:
    visit["#text"].fill("one\n" * 60)
    expect(visit["#generate"]).to_be_in_viewport()
    visit.set(max_tokens=400)
    visit.page.evaluate("scrollTo(0, 1200)")
    visit["#text"].focus()
    visit.press("Control+Enter")
    expect(visit["#alert"]).to_contain_text("64")
    expect(visit["#alert"]).to_be_in_viewport()
    visit.wrong.clear()  # Chromium notes the 400 in its console


def test_stopping_keeps_what_was_written(browser: Any, serve: Any, scripted: Any) -> None:
    words = gpt2.Tokenizer.published().encode(" and so on and on and on")
    backend = scripted(words, n_prompt=1)
    server = serve(backend)
    visit = Visit(browser, server.url)
    visit["#text"].fill("Once")
    written = 0

    def hold(work: Any) -> None:
        nonlocal written
        if work and len(work[0].tokens) == 1 and (written := written + 1) > 3:
            backend.gate.clear()

    expect(visit["#alert"]).to_be_visible()  # this backend cannot be looked into; so only generating is held
    backend.before_step = hold
    visit.press("Control+Enter")
    expect(visit["#stop"]).to_be_visible()
    expect(visit["#text"]).to_have_value(re.compile("Once and"))
    assert visit["#text"].evaluate("(area) => area.readOnly")
    visit.press("Escape")
    expect(visit["#generate"]).to_be_visible()
    expect(visit["#progress"]).to_contain_text("stopped")
    assert visit.text.startswith("Once and")
    assert not visit["#text"].evaluate("(area) => area.readOnly")
    backend.before_step = lambda work: None
    backend.gate.set()
    visit.context.close()


def test_several_continuations_stand_side_by_side_and_one_is_used(visit: Visit, tiny: Any) -> None:
    visit.write("Once")
    visit.set(n=3)
    visit["#text"].focus()
    visit.press("Control+End", "Control+Enter")
    expect(visit["#progress"]).to_contain_text("3 continuations")
    body = {"prompt": "Once", "max_tokens": 12, "temperature": 0.8, "top_k": 40, "seed": 7, "n": 3}
    choices = tiny.request("POST", "/v1/completions", body)[2]["choices"]
    cards = visit[".card"]
    expect(cards).to_have_count(3)
    boxes = [cards.nth(n).bounding_box() for n in range(3)]
    assert len({round(box["y"]) for box in boxes}) == 1  # in one row
    for n, choice in enumerate(choices):
        expect(cards.nth(n).locator(".card-text")).to_have_text(choice["text"], use_inner_text=True)
    visit.axe("continuations")
    visit["#text"].press_sequentially(" more")
    visit.page.get_by_role("button", name="Use continuation 2").click()  # what was typed meanwhile stays
    expect(visit["#text"]).to_have_value("Once more" + choices[1]["text"])
    visit["#undo"].click()
    expect(visit["#text"]).to_have_value("Once more")
    expect(visit["#continuations"]).to_be_hidden()


def test_settings_are_a_slider_and_a_number_that_agree(visit: Visit) -> None:
    visit["details.more"].evaluate("(details) => { details.open = true; }")
    names = [slider.get_attribute("id")[6:] for slider in visit["input[type=range]"].all()]
    assert {"max_tokens", "temperature", "top_k", "top_p", "n", "min_p", "typical_p", "repetition_penalty"} <= set(
        names
    )
    for name in names:
        slider, field = visit[f"#slide-{name}"], visit[f"#set-{name}"]
        slider.focus()
        before = field.input_value()
        visit.press("End" if name not in ("top_p", "typical_p") else "Home")
        assert field.input_value() == slider.input_value() != before
        field.fill(slider.get_attribute("min"))
        assert float(slider.input_value()) == float(slider.get_attribute("min"))
        field.fill("-7000")  # not in the range: not taken, and put right on leaving
        field.blur()
        assert float(field.input_value()) == float(field.get_attribute("min"))
    visit["#preset"].select_option("The paper's samples")
    assert (visit["#set-temperature"].input_value(), visit["#set-top_k"].input_value()) == ("1", "40")
    assert visit["#set-top_p"].input_value() == "1"
    visit.page.wait_for_function(
        "() => (localStorage.getItem('gpt2-settings') ?? '').includes('\"temperature\":1,\"top_k\":40,\"top_p\":1,')"
    )
    visit.open()  # once the settings are kept: it shows again
    expect(visit["#preset"]).to_have_value("The paper's samples")
    visit["#set-temperature"].fill("1.1")
    expect(visit["#preset"]).to_have_value("")


def test_the_help_of_a_setting_moves_nothing(visit: Visit) -> None:
    visit["details.more"].evaluate("(details) => { details.open = false; }")
    more = visit["details.more summary"]
    before = more.bounding_box()
    visit["#set-temperature"].click()
    expect(visit["#help-temperature"]).to_be_visible()
    assert more.bounding_box() == before
    visit.press("Escape")
    expect(visit["#help-temperature"]).to_be_hidden()
    more.click()
    expect(visit["details.more"]).to_have_js_property("open", True)


def test_the_code_to_copy_does_what_the_page_does(visit: Visit, tiny: Any) -> None:
    visit.write('- It\'s "so"\nOnce')
    visit.set(min_p=0.01, stop="THE END\n# stop\n.\\n\\n")
    visit["#text"].focus()
    visit.press("Control+End")
    visit["#copy-as"].click()
    visit.axe("copy as")
    code = {}
    for form in ("curl", "Python", "openai client", "Command"):
        visit["#snippets-forms"].get_by_role("button", name=form, exact=True).click()
        code[form] = visit["#snippets-code"].text_content()
    visit["#snippets-copy"].click()
    expect(visit["#snippets-done"]).not_to_be_empty()
    visit.press("Escape")
    expect(visit["#snippets"]).to_be_hidden()
    visit["#text"].focus()
    visit.press("Control+End")
    written = visit.generate().removeprefix('- It\'s "so"\nOnce')

    words = shlex.split(code["curl"].replace("\\\n", " "))
    assert words[:2] == ["curl", f"{tiny.url}/v1/completions"]
    body = json.loads(words[words.index("-d") + 1])
    assert tiny.request("POST", "/v1/completions", body)[2]["choices"][0]["text"] == written

    local: dict[str, Any] = {}
    program = code["Python"].replace('gpt2.load("tiny")', "model_of_the_server").replace("print(", "str(")
    exec(compile(program, "python", "exec"), local | {"model_of_the_server": tiny.served.model}, local)
    assert local["completion"].text == written

    program = code["openai client"].replace("print(completion.choices[0].text)", "")
    exec(compile(program, "openai", "exec"), local, local)
    assert local["completion"].choices[0].text == written
    local["client"].close()

    from gpt2.cli.main import program as command_line

    words = shlex.split(code["Command"].replace("\\\n", " "))
    generate = command_line.get_command(None, "generate")  # type: ignore[arg-type]
    assert generate is not None
    given = generate.make_context("generate", words[2:]).params
    assert words[:2] == ["gpt2", "generate"]
    assert (given["seed"], given["min_p"], given["max_tokens"]) == (7, 0.01, 12)
    assert list(given["stop"]) == ["THE END", "# stop", ".\n\n"] and given["prompt"] == '- It\'s "so"\nOnce'


def test_the_code_to_copy_goes_on_from_the_end_of_a_long_document(visit: Visit, tiny: Any) -> None:
    visit.write("one two three " * 40)  # the context is 64 tokens
    visit["#text"].focus()
    visit.press("Control+End")
    visit["#copy-as"].click()
    code = {}
    for form in ("curl", "Python", "openai client", "Command"):
        visit["#snippets-forms"].get_by_role("button", name=form, exact=True).click()
        code[form] = visit["#snippets-code"].text_content()
    visit.press("Escape")
    visit["#text"].focus()
    visit.press("Control+End")
    written = visit.generate().removeprefix("one two three " * 40)
    words = shlex.split(code["curl"].replace("\\\n", " "))
    status, _, answer = tiny.request("POST", "/v1/completions", json.loads(words[words.index("-d") + 1]))
    assert status == 200 and answer["choices"][0]["text"] == written
    local: dict[str, Any] = {}
    exec(code["openai client"].replace("print(", "str("), local, local)
    assert local["completion"].choices[0].text == written
    local["client"].close()
    assert "truncate_prompt=True" in code["Python"] and "--truncate-prompt" in code["Command"]


# --- looking ---------------------------------------------------------------------------------------------------------


def test_every_token_is_coloured_and_counted(visit: Visit, tiny: Any) -> None:
    text = "Once upon a time, étoile 😀 zażółć"
    visit.write(text)
    seen = tiny.request("POST", "/v1/inspect", {"prompt": text})[2]
    classes = [
        "first"
        if rank is None
        else "top"
        if rank < 10
        else "hundred"
        if rank < 100
        else "thousand"
        if rank < 1000
        else "beyond"
        for rank in seen["ranks"]
    ]
    spans = visit["#mirror .t"]
    assert [spans.nth(n).get_attribute("class").split()[1] for n in range(spans.count())] == classes
    counts = [label.split(" · ")[0] for label in visit["#legend .count"].all_text_contents()]
    assert counts == [str(classes.count(name)) for name in ("top", "hundred", "thousand", "beyond")]
    for style in {
        each.evaluate("(e) => getComputedStyle(e).textDecorationStyle") for each in visit[".legend .t"].all()
    }:
        assert style in ("solid", "dotted", "dashed", "double")  # never colour alone
    for figure in visit["figure"].all():
        figure.locator("summary").click()
        cells = [int(cell) for cell in figure.locator("td").all_text_contents()]
        assert sum(cells) == len(seen["ranks"]) - 1
    visit.axe("charts as tables")


def test_a_token_is_looked_at_by_hover_by_caret_and_by_key(visit: Visit) -> None:
    visit.write("Once upon a time there was")
    title = visit[".token-title"]
    box = visit["#mirror .t[data-t='3']"].bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    expect(title).to_have_text("·time")
    visit.page.mouse.move(5, 5)  # it stays
    expect(visit["#inspector tbody tr.written"].first).to_be_visible()
    visit["#text"].focus()
    visit.press("Control+Home", *["ArrowRight"] * 6)
    expect(title).to_have_text("·upon")
    visit.press("Control+Home")
    expect(title).to_have_text("Once")
    expect(visit["#inspector-subtitle"]).to_contain_text("nothing comes before it")
    visit.press("Control+End")
    expect(title).to_have_text("What comes next")


def test_the_list_of_tokens_is_for_the_keyboard_and_for_ears(visit: Visit, tiny: Any) -> None:
    text = "Once upon a\n😀"
    visit.write(text)
    seen = tiny.request("POST", "/v1/inspect", {"prompt": text})[2]
    visit["#as-tokens"].click()
    visit.axe("tokens")
    options = visit["#tokens [role=option]"]
    expect(options).to_have_count(seen["n_tokens"] + 1)
    names = [options.nth(n).get_attribute("aria-label") for n in range(options.count())]
    assert names[0] == "Once, first token"
    assert re.fullmatch(rf"upon, rank {seen['ranks'][1] + 1:,}, (< )?[\d.]+ %", names[1])
    assert names[3].startswith("new line, rank")
    assert names[4].startswith("bytes \\xf0")
    assert names[-1] == "What comes next"
    visit.press("Home", "ArrowRight")
    expect(options.nth(1)).to_be_focused()
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    assert visit["#tokens [tabindex='0']"].count() == 1  # one stop for Tab
    expect(visit[".token-title"]).to_have_text("·upon")
    expect(visit["#inspector .bar.after"].first).to_be_visible()
    visit.press("Enter")
    expect(visit[".alternative"].first).to_be_focused()
    visit.press("Escape")
    expect(options.nth(1)).to_be_focused()
    visit.press("Escape")
    expect(visit["#text"]).to_be_focused()


def test_what_cannot_be_seen_or_heard_has_a_name(visit: Visit) -> None:
    visit.write("Once\u200bupon\u00a0a")
    visit["#as-tokens"].click()
    expect(visit["#tokens"]).to_contain_text("U+200B")
    expect(visit["#tokens"]).to_contain_text("U+00A0")
    expect(visit["#tokens [aria-label^='U+200B, rank']"]).to_have_count(1)


def test_the_list_of_tokens_keeps_the_focus_when_the_text_is_read_again(visit: Visit) -> None:
    visit.write("Once upon a time")
    visit["#as-tokens"].click()
    visit.press("Home", "ArrowRight")
    token = visit["#tokens [role=option]"].nth(1)
    token.evaluate("(option) => { option.id = 'before'; }")
    visit["#model"].evaluate("(select) => select.dispatchEvent(new Event('change'))")
    expect(visit["#before"]).to_have_count(0)
    expect(token).to_be_focused()


def test_an_alternative_is_chosen_and_the_text_goes_on_from_there(visit: Visit, tiny: Any) -> None:
    visit.write("Once upon a time there was")
    visit["#text"].focus()
    visit.press("Control+Home", *["ArrowRight"] * 10)  # before " a"
    body = {"prompt": "Once upon a", "position": 2, "temperature": 0.8, "top_k": 40, "layer": 0}
    view = tiny.request("POST", "/v1/inspect", body)[2]
    expect(visit["#inspector .bar.after"].first).to_be_visible()
    rows = visit["#inspector section:first-of-type tbody tr"]
    shown = [rows.nth(n).locator("td").all_text_contents() for n in range(10)]
    for (before, after), each in zip(shown, view["alternatives"], strict=True):
        assert before == percent(each["logprob"])
        assert after == percent(each["filtered_logprob"])
    third = view["pieces"][str(view["alternatives"][2]["id"])]
    visit[".alternative"].nth(2).click()
    expect(visit["#progress"]).to_contain_text("a second")
    begun = "Once upon" + third
    assert visit.text == begun + completed(tiny, begun)
    visit["#undo"].click()
    visit["#undo"].click()
    expect(visit["#text"]).to_have_value("Once upon a time there was")


def percent(logprob: float | None) -> str:
    if logprob is None:
        return "left out"
    value = 100 * 2.718281828459045**logprob
    if value >= 9.95:
        return f"{value:.0f} %"
    if value >= 0.995:
        return f"{value:.1f} %"
    return f"{value:.2f} %" if value >= 0.005 else "< 0.01 %"


def test_attention_and_lens_are_those_of_the_model(visit: Visit, tiny: Any) -> None:
    text = "Once upon a time there was"
    visit.write(text)
    visit["#text"].focus()
    visit.press("Control+Home", *["ArrowRight"] * 13)  # in " time"
    visit["#layer"].select_option("1")
    visit["#head"].select_option("0")
    expect(visit["#attention-title ~ div .shade"]).to_have_count(3)
    view = tiny.request("POST", "/v1/inspect", {"prompt": text, "position": 3, "layer": 1})[2]
    weights = view["attention"][0]
    visit["#inspector details summary"].last.click()
    table = visit.page.get_by_role("region", name="All weights").locator("tbody tr td:last-child")
    expect(table).to_have_text([percent_of(weight) for weight in weights])
    lens = visit.page.get_by_role("region", name="Layers").locator("tbody tr")
    expect(lens).to_have_count(3)
    for row, depth in zip(lens.all(), view["lens"], strict=True):
        expect(row.locator("td").nth(1)).to_have_text(f"{depth['rank'] + 1:,}")
        expect(row.locator("td").nth(2)).to_have_text(percent(depth["logprob"]))
    visit.axe("attention in full")


def percent_of(weight: float) -> str:
    import math

    return percent(math.log(weight)) if weight else "0 %"


# --- tasks and server ------------------------------------------------------------------------------------------------


def test_tasks_show_the_exact_prompt(browser: Any, mini: Any) -> None:
    visit = Visit(browser, mini.url)
    visit["#tab-tasks"].click()
    prompts, room = Prompts.ours(), mini.served.model.room
    visit.page.get_by_role("button", name="Translate").first.click()
    visit["#task-text"].fill("Le chat dort.")
    asked = tasks.translate.ask(
        "Le chat dort.", source="french", target="english", prompts=prompts.translate, room=room
    )
    expect(visit["#task-prompt"]).to_have_text(asked.prompt, use_inner_text=True)
    visit["#task-run"].click()
    body = {"prompt": asked.prompt, "max_tokens": asked.sampling.max_tokens, "temperature": 0, "stop": ["\n"]}
    written = mini.request("POST", "/v1/completions", body)[2]["choices"][0]["text"]
    expect(visit["#task-answer"]).to_have_text(tasks.translate.read(written) or "(nothing)", use_inner_text=True)
    visit.axe("translated")
    visit.page.get_by_role("button", name="Answer", exact=True).click()
    visit["#task-text"].fill("Where does the cat sleep?")
    visit["#task-context"].fill("The cat sleeps in the kitchen.")
    asked = tasks.answer.ask(
        "Where does the cat sleep?", prompts=prompts.answer, room=room, context="The cat sleeps in the kitchen."
    )
    expect(visit["#task-prompt"]).to_have_text(asked.prompt, use_inner_text=True)
    visit["#task-open"].click()
    expect(visit["#view-write"]).to_be_visible()
    assert visit.text == asked.prompt
    visit.close()


def test_a_prompt_that_comes_late_does_not_replace_a_newer_one(browser: Any, mini: Any) -> None:
    visit = Visit(browser, mini.url)
    visit["#tab-tasks"].click()
    visit.page.get_by_role("button", name="Translate").first.click()
    held: list[Any] = []
    visit.page.route("**/v1/tasks/translate", lambda route: held.append(route))
    for number, text in enumerate(("Le chat dort.", "Le chien mange."), 1):
        visit["#task-text"].fill(text)
        while len(held) < number:
            visit.page.evaluate("0")  # lets what the page asks for come
    older, newer = held
    newer.continue_()
    expect(visit["#task-prompt"]).to_contain_text("Le chien mange.")
    with visit.page.expect_response("**/v1/tasks/translate"):
        older.continue_()
    visit.page.evaluate("fetch('v1/models').then((response) => response.json())")  # what came before it is shown
    expect(visit["#task-prompt"]).to_contain_text("Le chien mange.")
    visit.close()


@pytest.fixture(scope="module")
def mini(running: Any) -> Iterator[Any]:
    """A server of the model that ships: tasks need a longer context than the small one has."""
    server = running(gpt2.load("gpt2-mini"), name="gpt2-mini")
    yield server
    server.stop()


def calibrated(tiny_folder: Path, folder: Path) -> gpt2.LanguageModel:
    """The small model with a calibration by which every text that it finds likely is its own."""
    shutil.copytree(tiny_folder, folder)
    model = gpt2.load(folder, backend="reference")
    scores = {length: np.linspace(-400, -300, 999) for length in LENGTHS}
    Calibration(
        model="tiny",
        fingerprint=model.fingerprint(),
        made_from={"human": "letters of 1890"},
        human=scores,
        familiar=scores,
        generated={"top-k 40": {length: np.linspace(-1, 1, 99) for length in LENGTHS}},
    ).write(folder / "calibration.json")
    return model


def test_a_text_is_judged_part_by_part(browser: Any, running: Any, tiny_folder: Path, tmp_path: Path) -> None:
    server = running(calibrated(tiny_folder, tmp_path / "model"), name="tiny")
    visit = Visit(browser, server.url)
    visit["#tab-detect"].click()
    expect(visit["#detect-run"]).to_be_disabled()
    text = "Once upon a time, \u00e9toile \U0001f600, there w\u0430s " + "a long, long story. " * 120
    visit["#detect-text"].fill(text)
    visit["#detect-rate"].select_option("5.0 %")
    visit["#detect-run"].click()
    expect(visit["#detect-said .answer"]).to_have_text("Generated")
    seen = server.request("POST", "/v1/detect", {"text": text, "false_positive_rate": 0.05})[2]
    said = visit["#detect-said"].inner_text()
    assert "5.00%" in said and "letters of 1890" in said and "1 look-alike" in said
    parts = visit["#view-detect .part"]
    assert parts.count() == len(seen["parts"]) > 1
    for n, part in enumerate(seen["parts"]):
        shown = parts.nth(n).locator(".shades").text_content()
        assert shown == seen["text"][part["start"] : part["end"]]
        assert parts.nth(n).get_attribute("data-verdict") == part["verdict"]
    spans = visit["#view-detect .part .t"]
    assert spans.count() == seen["n_tokens"]
    counts = [label.split(" \u00b7 ")[0] for label in visit["#view-detect .legend .count"].all_text_contents()]
    assert [int(count) for count in counts] == [sum(part["histogram"][k] for part in seen["parts"]) for k in range(4)]
    visit.axe("judged")
    for width in (320, 620, 1180):
        visit.page.set_viewport_size({"width": width, "height": 900})
        assert visit.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    visit.close()
    server.stop()


def test_a_short_text_and_one_without_a_calibration_have_no_verdict(visit: Visit) -> None:
    visit["#tab-detect"].click()
    visit["#detect-text"].fill("Hello there")
    visit["#detect-run"].click()
    expect(visit["#detect-said .answer"]).to_have_text("No verdict")
    visit.axe("no verdict")


def test_the_server_is_described_and_counted(visit: Visit) -> None:
    visit.write("Once")
    visit.generate()
    visit["#tab-server"].click()
    expect(visit["#view-server"]).to_contain_text("Tokens generated")
    facts = visit["#view-server tr"].evaluate_all(  # at once: every two seconds the page writes them anew
        "(rows) => Object.fromEntries(rows.map((row) => [...row.children].map((cell) => cell.textContent)))"
    )
    assert facts["Name"] == "tiny"
    assert facts["Context"] == "64 tokens"
    assert facts["Computed by"] == "reference on cpu"
    assert int(facts["Tokens generated"].replace(",", "")) >= 12
    visit.axe("server")


def test_a_model_is_counted_whatever_its_name(browser: Any, running: Any, tiny_model: Any) -> None:
    server = running(tiny_model, name='a "b\\" {c} d')
    visit = Visit(browser, server.url)
    try:
        visit["#tab-server"].click()
        expect(visit["#view-server"]).to_contain_text("Tokens generated")
        visit.close()
    finally:
        server.stop()


def test_a_server_that_is_gone_is_said_to_be(browser: Any, running: Any, tiny_model: Any) -> None:
    server = running(tiny_model, name="tiny")
    visit = Visit(browser, server.url)
    visit.write("Once")
    expect(visit["#inspector .bar.after"].first).to_be_visible()  # it has been looked into
    server.stop()
    with visit.page.expect_event("requestfailed", lambda request: request.url.endswith("/v1/inspect")):  # the last
        visit.press("Control+Enter")
        expect(visit["#alert"]).to_contain_text("cannot be reached")
        expect(visit["#state"]).to_have_attribute("data-state", "down")
        expect(visit["#generate"]).to_be_visible()
        assert visit.text == "Once"
    visit.axe("unreachable")
    visit["#alert-close"].click()
    expect(visit["#alert"]).to_be_hidden()
    visit.context.close()


# --- safety and reach ------------------------------------------------------------------------------------------------

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>{{7*7}}javascript:alert(1)'


def test_what_the_model_writes_is_text_and_nothing_else(visit: Visit) -> None:
    chunk = {"choices": [{"index": 0, "text": HOSTILE, "finish_reason": "stop"}]}
    lines = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    visit.page.route(
        "**/v1/completions", lambda route: route.fulfill(body=lines, headers={"content-type": "text/event-stream"})
    )
    visit.write(HOSTILE[:30])
    visit["#text"].focus()
    visit.press("Control+End")
    visit.generate()
    visit.wait_until_read()
    visit["#as-tokens"].click()
    visit.press("Home", "ArrowRight", "ArrowRight")
    expect(visit["#inspector .bar.after"].first).to_be_visible()
    visit["#as-text"].click()
    visit.set(n=2)
    visit["#text"].focus()
    visit.press("Control+Enter")
    expect(visit[".card-text"].first).to_have_text(HOSTILE)
    assert visit.page.evaluate("window.hacked") is None
    assert visit["img, body script, iframe"].count() == 0


def test_a_refusal_is_shown_in_the_servers_words(visit: Visit) -> None:
    visit.write("Once")
    visit.set(max_tokens=400)
    visit["#text"].focus()
    visit.press("Control+Enter")
    expect(visit["#alert"]).to_contain_text("64")
    visit.axe("refused")
    expect(visit["#undo"]).to_be_enabled()
    visit["#undo"].click()  # what was typed: a refusal leaves no step of its own
    assert visit.text == ""
    assert visit.wrong != []  # Chromium notes the 400 in its console
    visit.wrong.clear()


def test_what_is_said_of_a_text_that_is_too_long_is_for_readers_and_goes_with_it(visit: Visit) -> None:
    too_long = re.compile("^The text is too long to be read at once: the limit is 32,768 tokens, .* Shorten it")
    for change in (lambda: visit["#text"].fill(""), lambda: visit["#undo"].click()):
        visit["#text"].fill("word " * 33_000)
        expect(visit["#alert p"]).to_have_text(too_long)
        change()
        expect(visit["#alert"]).to_be_hidden()
    visit.write("Once")
    visit.generate()
    expect(visit["#alert"]).to_be_hidden()
    assert visit.wrong != []  # Chromium notes the 400 in its console
    visit.wrong.clear()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_no_rule_of_axe_is_broken(browser: Any, tiny: Any, scheme: str, width: int) -> None:
    visit = Visit(browser, tiny.url, viewport={"width": width, "height": 900}, color_scheme=scheme)
    visit.axe("empty")
    visit["details.more"].evaluate("(details) => { details.open = true; }")
    visit["#settings-details"].evaluate("(details) => { details.open = true; }")
    look_into(visit, "Once upon a time there was")
    visit.axe("written")
    for tab in ("tasks", "detect", "server"):
        visit[f"#tab-{tab}"].click()
        visit.axe(tab)
    visit.close()


def test_what_is_chosen_is_seen_where_colours_are_forced(browser: Any, tiny: Any) -> None:
    visit = Visit(browser, tiny.url, forced_colors="active")
    paper = "(e) => getComputedStyle(e).backgroundColor"
    for chosen, other in (("#as-text", "#as-tokens"), ("#tab-write", "#tab-tasks")):
        assert visit[chosen].evaluate(paper) != visit[other].evaluate(paper)
    visit.axe("forced colours")
    # a text's own ground, which such a browser paints below it, would cover the marks of the tokens
    assert visit["#text"].evaluate("(area) => getComputedStyle(area).forcedColorAdjust") == "none"
    lines = "(e) => getComputedStyle(e).textDecorationLine"
    named = [visit[f"#legend .{name}"].evaluate(lines) for name in ("top", "hundred", "thousand", "beyond")]
    assert named == ["none", "underline", "underline", "underline"]
    visit.close()


def look_into(visit: Visit, text: str) -> None:
    visit.write(text)
    visit["#text"].focus()
    visit.press("Control+Home", *["ArrowRight"] * 7)
    expect(visit["#inspector .bar.after"].first).to_be_visible()


def test_nothing_is_wider_than_the_window(visit: Visit) -> None:
    visit["#settings-details"].evaluate("(details) => { details.open = true; }")
    look_into(visit, "Once upon a time there was a very-long-word-" + "x" * 80)
    visit["#model option"].first.evaluate("(option) => { option.textContent = 'a-name-of-80-letters'.repeat(4); }")
    for tab in ("tasks", "detect", "server", "write"):
        visit[f"#tab-{tab}"].click()
        for width in (320, 390, 620, 640, 768, 900, 1180, 1920):
            visit.page.set_viewport_size({"width": width, "height": 900})
            overflow = visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert overflow <= 0, f"{tab} is {overflow} pixels too wide for {width}"


def test_themes_are_chosen_and_remembered(visit: Visit) -> None:
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    visit["#theme"].click()
    light = visit.page.evaluate(paper)
    visit["#theme"].click()
    dark = visit.page.evaluate(paper)
    assert light != dark
    visit.open()
    assert visit.page.evaluate(paper) == dark
    expect(visit["#theme"]).to_have_text("Theme: dark")


def test_everything_can_be_done_by_the_keyboard(visit: Visit) -> None:
    """Tab reaches every control that is shown, each has a name, and focus is always visible."""
    visit.write("Once upon a time")
    expect(visit["#inspector .bar.after"].first).to_be_visible()
    visit["#tab-write"].focus()
    reached: list[str] = []
    for _ in range(120):
        visit.press("Tab")
        here = visit.page.evaluate(
            "() => { const e = document.activeElement; return e === document.body ? null : "
            "`${e.id || e.textContent.trim().slice(0, 20)}|${getComputedStyle(e).outlineStyle !== 'none' || "
            "e.id === 'text'}`; }"
        )
        if here is None:
            break
        reached.append(here)
    assert all(each.endswith("|true") for each in reached), reached
    names = {each.split("|")[0] for each in reached}
    assert {
        "model",
        "theme",
        "preset",
        "set-temperature",
        "slide-top_k",
        "text",
        "generate",
        "undo",
        "copy-as",
    } <= names
    assert {"as-text", "layer", "head"} <= names
    visit["#tab-write"].focus()
    visit.press("ArrowRight")
    expect(visit["#view-tasks"]).to_be_visible()
    visit.press("ArrowRight")
    expect(visit["#view-detect"]).to_be_visible()
    visit.press("End")
    expect(visit["#view-server"]).to_be_visible()
    visit.press("Home")
    expect(visit["#view-write"]).to_be_visible()

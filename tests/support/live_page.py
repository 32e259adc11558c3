"""The page that is shipped, in Chromium, whose kernel is the test."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

from krypton_widget import export

# As Jupyter does: every widget loads the file for itself, and every view of it is rendered.
PAGE = """<!doctype html><style>{css}</style><body></body>
<script type="application/json" id="source">{source}</script>
<script type="module">
const source = JSON.parse(document.getElementById("source").textContent);
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const read = (text) => JSON.parse(text, (_, value) =>
  value && typeof value === "object" && "$bytes" in value ? bytes(value.$bytes) : value);
window.models = [];
window.add = async (text) => {{
  const state = read(text);
  const listeners = {{}};
  const url = URL.createObjectURL(new Blob([source], {{ type: "text/javascript" }}));
  const model = {{
    state, saved: 0, sent: [], widget: (await import(url)).default,
    get: (name) => state[name],
    set: (name, value) => {{ state[name] = value; (listeners["change:" + name] ?? []).forEach((f) => f()); }},
    save_changes: () => {{ model.saved += 1; }},
    send: (message) => model.sent.push(message),
    on: (name, f) => {{ (listeners[name] ??= []).push(f); }},
    off: () => {{}},
  }};
  window.models.push(model);
}};
window.show = (i) => {{
  const el = document.createElement("div");
  document.body.append(el);
  window.models[i].widget.render({{ model: window.models[i], el }});
}};
window.update = (i, text) => Object.entries(read(text)).forEach(([k, v]) => window.models[i].set(k, v));
window.ready = true;
</script>"""


class Live:
    """A page of explorers whose kernel is this test."""

    def __init__(self, page):
        self.page = page
        static = Path(export.__file__).parent / "static"
        css, source = ((static / f"widget.{kind}").read_text() for kind in ("css", "js"))
        page.set_content(PAGE.format(css=css, source=json.dumps(source).replace("<", "\\u003c")))
        page.wait_for_function("window.ready")

    def add(self, explorer) -> None:
        state = {k: v for k, v in explorer.get_state().items() if k not in ("_esm", "_css")}
        self.page.evaluate("(text) => window.add(text)", export.to_json(state))

    def show(self, which: int):
        self.page.evaluate("(i) => window.show(i)", which)
        root = self.page.locator(".krypton-explorer").last
        root.locator(".kr-map[data-drawn]").first.wait_for()
        self.page.wait_for_timeout(150)
        return root

    def update(self, which: int, **traits) -> None:
        self.page.evaluate("([i, text]) => window.update(i, text)", [which, export.to_json(traits)])
        self.page.wait_for_timeout(60)

    def state(self, which: int, trait: str):
        return self.page.evaluate("([i, trait]) => window.models[i].state[trait]", [which, trait])


@contextmanager
def opened(browser):
    """A page of explorers; an error on it is a failure."""
    context = browser.new_context(viewport={"width": 1300, "height": 1500})
    page = context.new_page()
    said = []
    page.on("pageerror", lambda error: said.append(str(error)))
    yield Live(page)
    context.close()
    assert not said, said

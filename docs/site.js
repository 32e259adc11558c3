// What the theme makes when a page is there: wide tables, which keys can scroll then, and the buttons of code.
new MutationObserver(() => {
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) table.tabIndex = 0;
  document.querySelectorAll(".md-code__nav").forEach((buttons, i) => buttons.setAttribute("aria-label", `Code ${i + 1}`));
}).observe(document.documentElement, { childList: true, subtree: true });

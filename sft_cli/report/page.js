"use strict";
(() => {
  const form = document.getElementById("filter");
  const status = form.querySelector("[role=status]");
  const { text } = form.elements;
  // Each list chooses by the attribute that it names, which holds values separated by bars.
  const lists = [...form.querySelectorAll("select")];
  const what = form.dataset.what;
  const rows = [...document.querySelectorAll("article.row")].map((element) => ({
    element,
    values: lists.map((list) => element.dataset[list.dataset.key].split("|")),
    text: element.textContent.toLowerCase(),
  }));

  // Marks what was searched for without touching the page; where a browser cannot, the rows are still filtered.
  const mark = (needle, shown) => {
    if (!("highlights" in CSS)) return;
    CSS.highlights.delete("found");
    if (!needle) return;
    const ranges = [];
    for (const { element } of shown.slice(0, 100)) {
      const nodes = [];
      let all = "";
      const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        nodes.push([all.length, node]);
        all += node.data;
      }
      const lower = all.toLowerCase();
      if (lower.length !== all.length) continue;
      let at = 0;
      for (let found = lower.indexOf(needle); found >= 0 && ranges.length < 2000; found = lower.indexOf(needle, found + needle.length)) {
        const range = document.createRange();
        const end = found + needle.length;
        while (at + 1 < nodes.length && nodes[at + 1][0] <= found) at += 1;
        let last = at;
        while (last + 1 < nodes.length && nodes[last + 1][0] < end) last += 1;
        range.setStart(nodes[at][1], found - nodes[at][0]);
        range.setEnd(nodes[last][1], end - nodes[last][0]);
        ranges.push(range);
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  };

  const filter = () => {
    const needle = text.value.toLowerCase();
    const shown = rows.filter((row) => {
      const fits =
        lists.every((list, at) => !list.value || row.values[at].includes(list.value)) &&
        (!needle || row.text.includes(needle));
      row.element.hidden = !fits;
      if (needle && fits) {
        for (const fold of row.element.querySelectorAll("details.fold")) fold.open ||= fold.textContent.toLowerCase().includes(needle);
      }
      return fits;
    });
    status.textContent = `${shown.length} of ${rows.length} ${what} shown`;
    mark(needle, shown);
  };

  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      text.focus();
    }
  });
  filter();
})();

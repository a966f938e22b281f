"use strict";
(() => {
  const form = document.getElementById("filter");
  const status = form.querySelector("[role=status]");
  const live = document.getElementById("live");
  const body = document.querySelector("#runs tbody");
  const EVERY = 2000;
  const rows = new Map();
  const elements = new Map([...body.rows].map((element) => [element.dataset.name, element]));
  let revision = "";

  const figure = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))));
  const count = (value) => Math.round(value).toLocaleString("en");
  const duration = (seconds) =>
    seconds < 100 ? `${Math.round(seconds)} s` : seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  const when = (seconds) => {
    if (seconds === null) return "–";
    const time = new Date(seconds * 1000);
    const two = (value) => String(value).padStart(2, "0");
    return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${two(time.getHours())}:${two(time.getMinutes())}`;
  };

  const make = (name) => {
    const element = document.createElement("tr");
    element.dataset.name = name;
    const head = document.createElement("th");
    head.scope = "row";
    const link = document.createElement("a");
    link.href = `/run/${name.split("/").map(encodeURIComponent).join("/")}`;
    link.textContent = name;
    head.append(link);
    element.append(head);
    for (const style of ["whole state", "n", "n", "n", "n", "n", "n", "", "whole"]) {
      const cell = document.createElement("td");
      cell.className = style;
      element.append(cell);
    }
    elements.set(name, element);
    return element;
  };

  const draw = (row, mark) => {
    const element = elements.get(row.name) || make(row.name);
    const cells = [...element.querySelectorAll("td")];
    const texts = [
      row.state,
      count(row.step) + (row.planned_steps ? ` / ${count(row.planned_steps)}` : ""),
      figure(row.loss),
      figure(row.held_out),
      figure(row.best_held_out),
      row.tokens_per_second === null ? "–" : count(row.tokens_per_second),
      row.seconds_left === null ? "" : duration(row.seconds_left),
      row.recipe,
      when(row.started),
    ];
    texts.forEach((text, at) => {
      if (cells[at].textContent !== text) cells[at].textContent = text;
    });
    cells[0].className = `whole state ${row.state.replaceAll(" ", "-")}`;
    if (mark) {
      element.classList.add("changed");
      setTimeout(() => element.classList.remove("changed"), 1500);
    }
  };

  const FALLING = new Set(["changed", "started", "step", "tokens_per_second"]);
  const before = (first, second) => {
    const key = form.elements.order.value;
    const [one, two] = [first[key], second[key]];
    if (one === two) return 0;
    if (one === null) return 1;
    if (two === null) return -1;
    return (one < two ? -1 : 1) * (FALLING.has(key) ? -1 : 1);
  };

  const arrange = () => {
    const needle = form.elements.text.value.toLowerCase();
    const state = form.elements.state.value;
    const sorted = [...rows.values()].sort(before);
    let shown = 0;
    sorted.forEach((row, at) => {
      const element = elements.get(row.name);
      const fits = (!state || row.state === state) && `${row.name} ${row.recipe}`.toLowerCase().includes(needle);
      element.hidden = !fits;
      shown += fits ? 1 : 0;
      if (body.rows[at] !== element) body.insertBefore(element, body.rows[at] || null);
    });
    const text = `${shown} of ${rows.size} runs shown`;
    if (status.textContent !== text) status.textContent = text;
  };

  const update = async () => {
    if (document.hidden && revision) return;
    try {
      const answer = await fetch(`/api/runs?since=${encodeURIComponent(revision)}`);
      if (!answer.ok) throw new Error(String(answer.status));
      const changes = await answer.json();
      const first = revision === "";
      if (changes.complete) rows.clear();
      for (const row of changes.runs) {
        rows.set(row.name, row);
        draw(row, !first && !changes.complete);
      }
      for (const name of changes.removed) rows.delete(name);
      for (const [name, element] of elements) {
        if (!rows.has(name)) {
          element.remove();
          elements.delete(name);
        }
      }
      revision = changes.revision;
      if (first || changes.runs.length || changes.removed.length) arrange();
      live.textContent = "";
    } catch {
      live.textContent = "· the board does not answer; trying again";
    }
  };

  form.hidden = false;
  form.addEventListener("input", arrange);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select, textarea") && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      form.elements.text.focus();
    }
  });
  document.addEventListener("visibilitychange", update);
  update();
  setInterval(update, EVERY);
})();

"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const EVERY = 3000;
  const HEIGHT = 190;
  const MARGIN = { left: 62, right: 10, top: 8, bottom: 22 };
  const TITLES = {
    loss: "loss, nats",
    "train/lr": "learning rate",
    "train/grad_norm": "gradient norm",
    "train/tokens_per_second": "tokens/s",
    "train/memory": "peak memory, GiB",
  };
  const list = document.getElementById("legend");
  const names = JSON.parse(list.dataset.names);
  const charts = document.getElementById("charts");
  const form = document.getElementById("zoom");
  const status = form.querySelector("[role=status]");
  const figures = document.getElementById("figures");
  const runs = names.map(() => ({ etag: "", curves: {} }));
  const drawn = new Map();
  let window_ = [null, null];

  const path = (name) => name.split("/").map(encodeURIComponent).join("/");
  const figure = (value) => (value === null ? "–" : Math.abs(value) >= 1e5 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4))));
  const make = (tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const chartOf = (name) => (name === "train/loss" || name === "eval/loss" ? "loss" : name);
  const scaled = (name, value) => (name === "train/memory" ? value / 2 ** 30 : value);

  // Round numbers between two values, about `count` of them.
  const ticks = (low, high, count) => {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step / 1e6 ? 0 : at);
    return found;
  };

  const collect = () => {
    const found = new Map();
    runs.forEach((run, number) => {
      for (const [name, points] of Object.entries(run.curves)) {
        if (!points.length) continue;
        const chart = chartOf(name);
        if (!found.has(chart)) found.set(chart, []);
        const values = points.map(([step, value]) => [step, scaled(name, value)]);
        found.get(chart).push({ number, heldOut: name === "eval/loss", points: values });
      }
    });
    return found;
  };

  const describe = (title, lines) =>
    `${title}. ${lines
      .map(({ number, heldOut, points }) => {
        const values = points.map((point) => point[1]);
        const least = values.reduce((one, two) => Math.min(one, two));
        const most = values.reduce((one, two) => Math.max(one, two));
        const [step, last] = points[points.length - 1];
        return `${names[number]}${heldOut ? ", held out" : ""}: ${figure(last)} at step ${step}, between ${figure(least)} and ${figure(most)}`;
      })
      .join("; ")}`;

  const build = (chart) => {
    const holder = document.createElement("figure");
    holder.className = "chart";
    const caption = document.createElement("figcaption");
    const title = document.createElement("b");
    title.textContent = TITLES[chart] || chart.replace(/^train\//, "").replace(/^eval\//, "held out: ").replace(/^retention\//, "retention: ");
    const readout = document.createElement("span");
    readout.setAttribute("aria-hidden", "true");
    caption.append(title, " ", readout);
    const picture = make("svg", { role: "img", height: HEIGHT, focusable: "false" });
    holder.append(caption, picture);
    const one = { holder, picture, readout, title: title.textContent, lines: [], x: null, back: null };
    listen(one);
    drawn.set(chart, one);
    return one;
  };

  const draw = (one) => {
    const { picture, lines } = one;
    const width = Math.max(240, one.holder.clientWidth);
    const [right, bottom] = [width - MARGIN.right, HEIGHT - MARGIN.bottom];
    const steps = lines.flatMap(({ points }) => [points[0][0], points[points.length - 1][0]]);
    let [x0, x1] = [window_[0] ?? Math.min(...steps), window_[1] ?? Math.max(...steps)];
    if (x0 >= x1) [x0, x1] = [x0 - 1, x0 + 1];
    let [y0, y1] = [Infinity, -Infinity];
    for (const { points } of lines) for (const [, value] of points) [y0, y1] = [Math.min(y0, value), Math.max(y1, value)];
    const pad = (y1 - y0 || Math.abs(y1) || 1) * 0.05;
    [y0, y1] = [y0 - pad, y1 + pad];
    const x = (step) => MARGIN.left + ((step - x0) / (x1 - x0)) * (right - MARGIN.left);
    const y = (value) => bottom - ((value - y0) / (y1 - y0)) * (bottom - MARGIN.top);
    one.x = x;
    one.back = (pixel) => Math.round(x0 + ((pixel - MARGIN.left) / (right - MARGIN.left)) * (x1 - x0));
    picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    picture.setAttribute("aria-label", describe(one.title, lines));
    picture.replaceChildren();
    for (const value of ticks(y0, y1, 4)) {
      picture.append(make("path", { class: "grid", d: `M${MARGIN.left} ${y(value).toFixed(1)}H${right}` }));
      picture.append(make("text", { class: "tick y", x: MARGIN.left - 6, y: (y(value) + 3.5).toFixed(1) }, figure(value)));
    }
    for (const step of ticks(x0, x1, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger)) {
      picture.append(make("text", { class: "tick x", x: x(step).toFixed(1), y: HEIGHT - 6 }, step.toLocaleString("en")));
    }
    for (const { number, heldOut, points } of lines) {
      const d = points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
      picture.append(make("path", { class: `line c${number}${heldOut ? " held-out" : ""}`, d }));
      if (heldOut || points.length < 30) {
        for (const [step, value] of points) picture.append(make("circle", { class: `dot c${number}`, cx: x(step).toFixed(1), cy: y(value).toFixed(1), r: 2.5 }));
      }
    }
    one.mark = make("rect", { class: "mark", y: MARGIN.top, height: bottom - MARGIN.top, x: 0, width: 0 });
    picture.append(one.mark);
  };

  const nearest = (points, step) => {
    let [low, high] = [0, points.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle + 1;
      else high = middle;
    }
    return low && step - points[low - 1][0] < points[low][0] - step ? points[low - 1] : points[low];
  };

  const listen = (one) => {
    const { picture } = one;
    let start = null;
    const position = (event) => event.clientX - picture.getBoundingClientRect().left;
    picture.addEventListener("pointerdown", (event) => {
      start = position(event);
      picture.setPointerCapture(event.pointerId);
    });
    picture.addEventListener("pointermove", (event) => {
      const at = position(event);
      const step = one.back(at);
      one.readout.textContent = one.lines
        .map(({ heldOut, points }) => [heldOut, nearest(points, step)])
        .map(([heldOut, [own, value]]) => `${heldOut ? "held out " : ""}${figure(value)} at ${own.toLocaleString("en")}`)
        .join(" · ");
      if (start === null) return;
      one.mark.setAttribute("x", Math.min(start, at));
      one.mark.setAttribute("width", Math.abs(at - start));
    });
    picture.addEventListener("pointerup", (event) => {
      const [first, last] = [one.back(start), one.back(position(event))].sort((a, b) => a - b);
      const moved = Math.abs(position(event) - start) > 8;
      start = null;
      one.mark.setAttribute("width", 0);
      if (moved && last > first) zoom(Math.max(0, first), last);
    });
    picture.addEventListener("pointercancel", () => { start = null; });
    picture.addEventListener("pointerleave", () => { one.readout.textContent = ""; });
    picture.addEventListener("dblclick", () => zoom(null, null));
  };

  const drawAll = () => {
    const found = collect();
    for (const [chart, lines] of found) {
      const one = drawn.get(chart) || build(chart);
      one.lines = lines;
      if (!one.holder.isConnected) charts.append(one.holder);
      draw(one);
    }
    for (const [chart, one] of drawn) {
      if (!found.has(chart)) {
        one.holder.remove();
        drawn.delete(chart);
      }
    }
    status.textContent = found.size ? "" : "There is no value in these steps yet.";
  };

  const load = async () => {
    let changed = false;
    const query = new URLSearchParams();
    if (window_[0] !== null) query.set("first", window_[0]);
    if (window_[1] !== null) query.set("last", window_[1]);
    await Promise.all(
      names.map(async (name, number) => {
        const answer = await fetch(`/api/curves/${path(name)}?${query}`, { cache: "no-cache" });
        if (!answer.ok) throw new Error(String(answer.status));
        const etag = answer.headers.get("etag");
        if (etag === runs[number].etag) return;
        runs[number] = { etag, curves: (await answer.json()).curves };
        changed = true;
      }),
    );
    if (changed) drawAll();
  };

  const zoom = (first, last) => {
    window_ = [first, last];
    form.elements.first.value = first ?? "";
    form.elements.last.value = last ?? "";
    load().catch(failed);
  };

  const failed = () => { status.textContent = "The board does not answer; trying again."; };

  const refresh = async () => {
    const answer = await fetch(`/api/runs/${path(figures.dataset.name)}`);
    if (!answer.ok) return;
    const row = await answer.json();
    for (const element of figures.querySelectorAll("[data-key]")) {
      const key = element.dataset.key;
      const text = key === "state" ? row.state : key === "left" ? left(row.seconds_left) : ["step", "tokens_per_second"].includes(key) && row[key] !== null ? Math.round(row[key]).toLocaleString("en") : figure(row[key]);
      if (element.textContent !== text) element.textContent = text;
      if (key === "state") element.className = `state ${row.state.replaceAll(" ", "-")}`;
    }
    const stop = document.querySelector("form.stop");
    if (stop) stop.hidden = row.state !== "running";
  };
  const left = (seconds) => (seconds === null ? "" : seconds < 100 ? `${Math.round(seconds)} s left` : seconds < 6000 ? `${Math.round(seconds / 60)} min left` : `${(seconds / 3600).toFixed(1)} h left`);

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    const value = (name) => (form.elements[name].value === "" ? null : Math.max(0, Math.round(Number(form.elements[name].value))));
    zoom(value("first"), value("last"));
  });
  form.addEventListener("reset", () => setTimeout(() => zoom(null, null)));
  form.elements.wider.addEventListener("click", () => {
    const [first, last] = window_;
    if (first === null || last === null) return zoom(null, null);
    const half = Math.max(1, Math.round((last - first) / 2));
    return zoom(Math.max(0, first - half), last + half);
  });
  let waiting = 0;
  new ResizeObserver(() => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => drawn.forEach(draw));
  }).observe(charts);
  load().catch(failed);
  setInterval(() => {
    if (!document.hidden) Promise.all([load(), refresh()]).catch(failed);
  }, EVERY);
})();

"use strict";
(() => {
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  function graph(panel) {
    const svg = panel.querySelector("svg.graph");
    if (!svg) return;
    const detail = panel.querySelector(".detail");
    const full = svg.dataset.full.split(" ").map(Number);
    const marked = [...svg.querySelectorAll(".node.added, .node.removed, .node.changed")];
    let view = { x: 0, y: 0, width: full[2] };
    let current = -1;

    const aspect = () => (svg.clientHeight || 640) / (svg.clientWidth || 560);

    function show() {
      const widest = Math.max(full[2], full[3] / aspect()) * 1.1;
      view.width = clamp(view.width, 120, widest);
      view.x = clamp(view.x, -view.width * 0.9, full[2] - view.width * 0.1);
      view.y = clamp(view.y, -view.width * aspect() * 0.9, full[3] - view.width * aspect() * 0.1);
      svg.setAttribute("viewBox", [view.x, view.y, view.width, view.width * aspect()].map((v) => v.toFixed(1)).join(" "));
      svg.classList.toggle("far", view.width > 5 * (svg.clientWidth || 560));
    }

    function zoom(factor, fx = 0.5, fy = 0.5) {
      const before = view.width;
      view.width = before * factor;
      show();
      const height = aspect();
      view.x += (before - view.width) * fx;
      view.y += (before - view.width) * height * fy;
      show();
    }

    function whole() {
      view.width = Math.max(full[2], full[3] / aspect());
      view.x = (full[2] - view.width) / 2;
      view.y = 0;
      show();
    }

    function place(node) {
      const [x, y] = node.getAttribute("transform").match(/-?[\d.]+/g).map(Number);
      return { x: x + 84, y: y + 20 };
    }

    function pick(node, follow) {
      svg.querySelectorAll(".picked").forEach((other) => other.classList.remove("picked"));
      node.classList.add("picked");
      detail.textContent = node.querySelector("title").textContent;
      if (!follow) return;
      const { x, y } = place(node);
      view.width = Math.min(view.width, 1.3 * (svg.clientWidth || 560));
      view.x = x - view.width / 2;
      view.y = y - (view.width * aspect()) / 2;
      show();
    }

    function step(by) {
      if (!marked.length) return;
      current = (current + by + marked.length) % marked.length;
      pick(marked[current], true);
    }

    function find(text) {
      const wanted = text.trim().toLowerCase();
      if (!wanted) return;
      const found = [...svg.querySelectorAll(".node")].find((node) => node.querySelector("title").textContent.toLowerCase().includes(wanted));
      if (found) pick(found, true);
      else detail.textContent = "no node matches";
    }

    const actions = { in: () => zoom(0.7), out: () => zoom(1 / 0.7), fit: whole, next: () => step(1), previous: () => step(current < 0 ? 0 : -1) };
    panel.querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", actions[button.dataset.do]));
    panel.querySelector("input[type=search]").addEventListener("change", (event) => find(event.target.value));
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const area = svg.getBoundingClientRect();
      zoom(Math.exp(event.deltaY * 0.002), (event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height);
    }, { passive: false });

    let held = null;
    svg.addEventListener("pointerdown", (event) => {
      held = { x: event.clientX, y: event.clientY, moved: false, node: event.target.closest(".node") };
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!held) return;
      const unit = view.width / svg.clientWidth;
      const dx = event.clientX - held.x, dy = event.clientY - held.y;
      held.moved ||= Math.abs(dx) + Math.abs(dy) > 3;
      if (!held.moved) return;
      view.x -= dx * unit;
      view.y -= dy * unit;
      held.x = event.clientX;
      held.y = event.clientY;
      show();
    });
    svg.addEventListener("pointerup", () => {
      if (held && !held.moved && held.node) pick(held.node, false);
      held = null;
    });
    svg.addEventListener("pointercancel", () => { held = null; });
    svg.addEventListener("keydown", (event) => {
      const move = view.width * 0.15;
      const keys = {
        "+": actions.in, "=": actions.in, "-": actions.out, "0": whole,
        ArrowLeft: () => { view.x -= move; show(); }, ArrowRight: () => { view.x += move; show(); },
        ArrowUp: () => { view.y -= move; show(); }, ArrowDown: () => { view.y += move; show(); },
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    addEventListener("resize", show);
    addEventListener("beforeprint", () => svg.setAttribute("viewBox", svg.dataset.full));
    addEventListener("afterprint", show);

    whole();
    view.width = clamp(view.width, 120, 1.3 * (svg.clientWidth || 560));
    view.x = full[2] / 2 - view.width / 2;
    if (marked.length) view.y = place(marked[0]).y - (view.width * aspect()) / 2;
    view.y = Math.max(0, view.y);
    if (marked.length) view.x = clamp(place(marked[0]).x - view.width / 2, Math.min(0, full[2] - view.width), Math.max(0, full[2] - view.width));
    show();
  }

  function filter(bar) {
    const rows = [...document.querySelectorAll(`#${bar.dataset.target} > tbody > tr`)];
    const text = bar.querySelector("input"), status = bar.querySelector("select"), shown = bar.querySelector(".shown");
    function apply() {
      const wanted = text.value.trim().toLowerCase();
      let count = 0;
      for (const row of rows) {
        const fits = row.textContent.toLowerCase().includes(wanted) && (!status || !status.value || row.dataset.status === status.value);
        row.hidden = !fits;
        count += fits;
      }
      shown.textContent = `${count} of ${rows.length}`;
    }
    text.addEventListener("input", apply);
    if (status) status.addEventListener("change", apply);
    apply();
  }

  function colour(dark) {
    for (const chart of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(chart, { "font.color": dark ? "#e6eaf0" : "#1b2330" });
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => colour(dark.matches));
  addEventListener("beforeprint", () => {
    colour(false);
    document.querySelectorAll("details").forEach((item) => { item.dataset.was = item.open; item.open = true; });
  });
  addEventListener("afterprint", () => {
    colour(dark.matches);
    document.querySelectorAll("details").forEach((item) => { item.open = item.dataset.was === "true"; });
  });
  document.querySelectorAll(".panel").forEach(graph);
  document.querySelectorAll(".filter").forEach(filter);
  colour(dark.matches);
  document.documentElement.dataset.ready = "true";
})();

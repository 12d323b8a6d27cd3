// What the page can do beyond being read: themes, sorted tables, marks that say what they are, runs filtered.
// Text of others is only ever set as text. Without this script everything is still there to be read.
"use strict";
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (tag, attributes = {}, text = "") => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    return element;
  };

  // The theme of the system, or the other one.
  const theme = document.getElementById("theme");
  const dark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const named = () => { theme.textContent = dark() ? "Light theme" : "Dark theme"; };
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    named();
  });
  named();
  theme.hidden = false;

  // Tables are sorted by a column: first one way, then the other.
  const key = (cell) => {
    const text = cell.dataset.sort ?? cell.querySelector("data")?.value ?? cell.textContent.trim();
    const number = Number(text.replaceAll(",", ""));
    return text && !Number.isNaN(number) ? number : text;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, "en", { numeric: true });
  };
  for (const table of all("table.sortable")) {
    const heads = all("thead tr:last-child th", table);
    for (const head of heads) {
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((row) => [key(row.cells[head.cellIndex]), row]);
        rows.sort(([a], [b]) => (up ? compare(a, b) : compare(b, a)));
        body.append(...rows.map(([, row]) => row));
      });
    }
  }

  // Marks of a chart say what they are: to a pointer that is near, and to the arrow keys.
  const NEAR = 28;
  for (const holder of all(".wide, .narrow")) {
    const marks = all("[data-tip]", holder).filter((mark) => mark.dataset.tip !== holder.closest("figure").dataset.line);
    if (!marks.length) continue;
    const tip = make("output", { class: "tip" });
    holder.append(tip);
    const label = holder.querySelector("svg").getAttribute("aria-label");
    for (const [name, value] of Object.entries({ tabindex: "0", role: "group", "aria-label": `${label} Arrow keys read its marks.` }))
      holder.setAttribute(name, value);
    let current = null;
    const show = (mark) => {
      current?.classList.remove("marked");
      current = mark;
      tip.textContent = mark ? mark.dataset.tip : "";
      if (!mark) return;
      mark.classList.add("marked");
      const box = mark.getBoundingClientRect(), frame = holder.getBoundingClientRect();
      const room = frame.width - tip.offsetWidth;
      tip.style.left = `${Math.max(0, Math.min(room, (box.left + box.right) / 2 - frame.left - tip.offsetWidth / 2))}px`;
      tip.style.top = `${box.top - frame.top - tip.offsetHeight - 6}px`;
    };
    const visible = () => marks.filter((mark) => mark.style.display !== "none");
    holder.addEventListener("pointermove", (event) => {
      const far = (mark) => {
        const box = mark.getBoundingClientRect();
        return Math.hypot(
          Math.max(box.left - event.clientX, 0, event.clientX - box.right),
          Math.max(box.top - event.clientY, 0, event.clientY - box.bottom),
        );
      };
      const found = visible().map((mark) => [far(mark), mark]).reduce((a, b) => (b[0] < a[0] ? b : a), [NEAR, null]);
      if (found[1] !== current) show(found[1]);
    });
    holder.addEventListener("pointerleave", () => show(null));
    holder.addEventListener("blur", () => show(null));
    holder.addEventListener("keydown", (event) => {
      // A bar beside a bar of the same row says the same: read once.
      const read = new Set();
      const shown = visible().filter(({ dataset: { tip } }) => !read.has(tip) && read.add(tip));
      const at = shown.findIndex((mark) => mark.dataset.tip === current?.dataset.tip);
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1 };
      if (event.key === "Escape") show(null);
      if (!(event.key in to) || !shown.length) return;
      event.preventDefault();
      show(shown[Math.max(0, Math.min(shown.length - 1, to[event.key]))]);
    });
  }

  // Runs are filtered by what they are; the frontier is that of those that are left.
  const runs = document.getElementById("runs");
  if (!runs) return;
  const rows = all("tr[data-run]", runs).sort((a, b) => a.dataset.run - b.dataset.run);
  const filters = document.getElementById("filters");
  const frontier = (points) => {
    let path = "", best = Infinity;
    for (const [x, y] of points.sort((a, b) => a[0] - b[0] || a[1] - b[1]))
      if (y < best) {
        path += path ? `H${x}V${y}` : `M${x},${y}`;
        best = y;
      }
    return path;
  };
  const apply = () => {
    const kept = (row) => all("input", filters).every((box) => box.checked || row.dataset[box.name] !== box.value);
    for (const row of rows) row.hidden = !kept(row);
    for (const figure of all("figure[data-line]")) {
      const numbers = figure.dataset.rows.split(" ").map(Number);
      for (const svg of all("svg", figure)) {
        const line = all("[data-tip]", svg).find((mark) => mark.dataset.tip === figure.dataset.line);
        const dots = all("[data-tip]", svg).filter((mark) => mark !== line);
        dots.forEach((dot, index) => { dot.style.display = rows[numbers[index]].hidden ? "none" : ""; });
        const left = dots.filter((dot) => dot.style.display !== "none");
        line.setAttribute("d", frontier(left.map((dot) => dot.getAttribute("transform").match(/-?[\d.]+(e-?\d+)?/g).map(Number))));
      }
    }
    document.getElementById("shown").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} runs`;
  };
  for (const name of ["model", "method", "device", "runtime"]) {
    const values = [...new Set(rows.map((row) => row.dataset[name]))].sort();
    if (values.length < 2) continue;
    const set = make("fieldset");
    set.append(make("legend", {}, name));
    for (const value of values) {
      const label = make("label");
      const box = make("input", { type: "checkbox", name, value });
      box.checked = true;
      box.addEventListener("change", apply);
      label.append(box, ` ${value}`);
      set.append(label);
    }
    filters.append(set);
  }
  filters.hidden = !filters.querySelector("fieldset");
})();

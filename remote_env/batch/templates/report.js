
"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const body = document.querySelector("#jobs tbody");
  const rows = [...body.rows];
  root.classList.add("scripted");

  // Light or dark, until the page is left: a report keeps nothing.
  const theme = byId("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // Search and filter. What a row says is read once, when it is first asked for.
  const search = byId("search");
  const boxes = [...document.querySelectorAll("#filter input[type=checkbox]")];
  const said = new Map();
  const text = (row) => {
    if (!said.has(row)) said.set(row, row.textContent.toLowerCase());
    return said.get(row);
  };
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcomes = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    let shown = 0;
    for (const row of rows) {
      const fits = outcomes.has(row.dataset.outcome) && words.every((word) => text(row).includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    byId("shown").textContent = shown === rows.length ? `${shown}` : `${shown} of ${rows.length}`;
  };
  byId("filter").hidden = false;
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("filter").addEventListener("input", filter);
  filter(); // a browser that goes back keeps what was typed

  // Sort by a column; once more turns it round.
  const heads = [...document.querySelectorAll("#jobs th[data-sort]")];
  const order = (row, column, numeric) => {
    const cell = row.cells[column];
    return numeric ? Number(cell.dataset.value) : cell.textContent;
  };
  const sort = (head) => {
    const column = head.cellIndex;
    const numeric = head.dataset.sort === "number";
    const down = head.getAttribute("aria-sort") === "ascending";
    const compare = numeric ? (a, b) => a - b : new Intl.Collator(undefined, { numeric: true }).compare;
    const keyed = rows.map((row) => [order(row, column, numeric), row]);
    keyed.sort((a, b) => (down ? -1 : 1) * compare(a[0], b[0]));
    for (const each of heads) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...keyed.map((each) => each[1]));
  };
  for (const head of heads) {
    head.tabIndex = 0;
    head.addEventListener("click", () => sort(head));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sort(head);
    });
  }

  // The timeline: hovering tells, a click leads to the job.
  const tip = byId("tip");
  const timeline = byId("timeline");
  const rowOf = (bar) => byId(`job-${bar.dataset.job}`);
  const headings = [...document.querySelectorAll("#jobs th")].map((head) => head.textContent);
  const tell = (bar) => {
    tip.replaceChildren();
    const [id, outcome, ...others] = rowOf(bar).cells;
    const first = document.createElement("b");
    first.textContent = `${id.textContent}: ${outcome.textContent}`;
    tip.append(first);
    for (const cell of others) {
      if (!cell.textContent || cell.className === "outputs") continue;
      const line = document.createElement("div");
      line.textContent = `${headings[cell.cellIndex]}: ${cell.textContent}`;
      tip.append(line);
    }
  };
  const place = (event) => {
    const x = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18;
    const y = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below;
    tip.style.transform = `translate(${Math.max(8, x)}px, ${Math.max(8, y)}px)`;
  };
  if (timeline) {
    for (const title of timeline.querySelectorAll("title")) title.remove(); // or the browser would show it as well
    timeline.addEventListener("pointermove", (event) => {
      const bar = event.target.closest("rect[data-job]");
      tip.hidden = !bar;
      if (!bar) return;
      if (tip.dataset.job !== bar.dataset.job) tell(bar);
      tip.dataset.job = bar.dataset.job;
      place(event);
    });
    timeline.addEventListener("pointerleave", () => { tip.hidden = true; });
    timeline.addEventListener("click", (event) => {
      const bar = event.target.closest("rect[data-job]");
      if (!bar) return;
      for (const marked of document.querySelectorAll(".marked")) marked.classList.remove("marked");
      bar.classList.add("marked");
      const detail = byId(`detail-${bar.dataset.job}`);
      if (detail) detail.open = true;
      else if (rowOf(bar).hidden) {
        search.value = "";
        for (const box of boxes) box.checked = true;
        filter();
      }
      rowOf(bar).classList.add("marked");
      (detail || rowOf(bar)).scrollIntoView({ block: "center" });
    });
  }
})();

// Sorting, filtering, tabs and the dark toggle. Without it the page is complete, only still.
"use strict";

(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Storage may be refused, for instance for files; the toggle then lasts as long as the page.
  const stored = {
    get() { try { return localStorage.getItem("ranker-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("ranker-theme", value); } catch { /* nothing to do */ } },
  };
  const chosen = stored.get();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  function themeToggle(button) {
    const isDark = () => (root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
    const show = () => {
      button.querySelector(".theme-word").textContent = isDark() ? "Light" : "Dark";
      button.setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      stored.set(root.dataset.theme);
      show();
    });
    dark.addEventListener("change", show);
    show();
  }

  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  function keyOf(row, column) {
    const cell = row.cells[column];
    if (!("v" in cell.dataset)) return cell.textContent.trim();
    return cell.dataset.v === "" ? null : Number(cell.dataset.v);
  }

  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null); // what is missing stays last
    return sign * (typeof a === "number" ? a - b : collator.compare(a, b));
  }

  function sortable(table) {
    const heads = [...table.querySelectorAll(".heads th")];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", (event) => {
      const first = event.currentTarget.dataset.first;
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
      table.dataset.order = column === 0 && order === "ascending" ? "rank" : "other";
      const sign = order === "ascending" ? 1 : -1;
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => !row.classList.contains("divider"));
        const keyed = rows.map((row) => [keyOf(row, column), row]);
        keyed.sort((a, b) => compare(a[0], b[0], sign));
        body.append(...keyed.map(([, row]) => row));
      }
    }));
  }

  const folded = (text) => text.normalize("NFKD").replace(/\p{Mn}/gu, "").toLowerCase();

  function filterable(card) {
    const label = card.querySelector(".filter");
    const input = label.querySelector("input");
    const rows = [...card.querySelectorAll("tbody tr:not(.divider)")];
    const names = rows.map((row) => folded(row.querySelector(".team bdi").textContent));
    const table = card.querySelector("table.board");
    const show = () => {
      const wanted = folded(input.value.trim());
      let seen = 0;
      rows.forEach((row, index) => {
        row.hidden = !names[index].includes(wanted);
        seen += !row.hidden;
      });
      table.classList.toggle("filtered", wanted !== "");
      card.querySelector(".count").textContent = wanted === "" ? "" : `${seen} of ${rows.length} teams`;
      card.querySelector(".none").hidden = seen > 0;
    };
    label.hidden = false;
    input.addEventListener("input", show);
    input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { input.value = ""; show(); }
    });
    if (input.value) show();
  }

  // Links to the sections become tabs; printing and browsers without scripts show every section.
  function tabs(nav) {
    const links = [...nav.querySelectorAll("a")];
    const panels = links.map((link) => document.getElementById(link.hash.slice(1)));
    nav.setAttribute("role", "tablist");
    links.forEach((link, index) => {
      link.setAttribute("role", "tab");
      link.id = `tab-${panels[index].id}`;
      link.setAttribute("aria-controls", panels[index].id);
      panels[index].setAttribute("role", "tabpanel");
      panels[index].removeAttribute("tabindex");
    });
    const select = (chosenIndex) => links.forEach((link, index) => {
      const on = index === chosenIndex;
      link.setAttribute("aria-selected", String(on));
      link.tabIndex = on ? 0 : -1;
      panels[index].classList.toggle("off", !on);
    });
    const fromAddress = () => Math.max(0, panels.findIndex((panel) => `#${panel.id}` === location.hash));
    const open = (index) => {
      select(index);
      history.replaceState(null, "", links[index].hash);
    };
    links.forEach((link, index) => {
      link.addEventListener("click", (event) => { event.preventDefault(); open(index); });
      link.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (event.key === " ") { event.preventDefault(); open(index); }
        if (step === undefined) return;
        event.preventDefault();
        const next = (index + step + links.length) % links.length;
        open(next);
        links[next].focus();
      });
    });
    addEventListener("hashchange", () => select(fromAddress()));
    select(fromAddress());
  }

  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  document.addEventListener("DOMContentLoaded", () => {
    themeToggle(document.querySelector(".theme"));
    document.querySelectorAll("table.board").forEach(sortable);
    document.querySelectorAll(".card").forEach(filterable);
    document.querySelectorAll(".tabs").forEach(tabs);
  });
})();

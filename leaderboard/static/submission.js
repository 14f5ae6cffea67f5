// The browser of a submission's predictions: filter by task and choice, search, sort by item score.
"use strict";

(() => {
  const folded = (text) => text.normalize("NFKD").replace(/\p{Mn}/gu, "").toLowerCase();

  function browser(root) {
    const tools = root.querySelector(".browser-tools");
    const [task, pick] = tools.querySelectorAll("select");
    const search = tools.querySelector("input");
    const body = root.querySelector("tbody");
    const head = root.querySelector("th[aria-sort]");
    const original = [...body.rows];
    const words = new Map(original.map((row) => [row, folded([...row.cells].slice(1, 4).map((cell) => cell.textContent).join(" "))]));

    function show() {
      const wanted = folded(search.value.trim());
      let seen = 0;
      for (const row of original) {
        const { task: own, pick: chosen } = row.dataset;
        row.hidden = (task.value !== "" && own !== task.value) || (pick.value !== "" && chosen !== pick.value) || !words.get(row).includes(wanted);
        seen += !row.hidden;
      }
      root.querySelector(".browser-count").textContent = `${seen} of ${original.length}`;
      root.querySelector(".browser-none").hidden = seen > 0;
    }

    // Lowest first, then highest first, then as they came; what has no score stays last.
    function sort() {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const score = (row) => (row.dataset.score === "" ? null : Number(row.dataset.score));
      const ordered = next === "none" ? original : [...original].sort((a, b) => {
        const [x, y] = [score(a), score(b)];
        return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
      });
      body.append(...ordered);
    }

    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", sort);
    tools.hidden = false;
    for (const select of [task, pick]) select.addEventListener("change", show);
    search.addEventListener("input", show);
    search.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { search.value = ""; show(); }
    });
    show();
  }

  // A link to a section that is closed opens it.
  function reveal() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") target.open = true;
  }

  document.querySelectorAll(".browser").forEach(browser);
  addEventListener("hashchange", reveal);
  reveal();
})();

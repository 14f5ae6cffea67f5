// The ranking's page: tracks as tabs, and each table as the address says. What a reader does changes the address, and
// the address changes the page: so links, reload and the back button agree.
"use strict";

(() => {
  const MOST = 4;
  const TEAM = 1; // the place of the name in its line

  class Track {
    constructor(section, board, page) {
      this.section = section;
      this.board = board;
      this.page = page;
      this.state = { ...address.NONE, track: board.slug };
      this.table = new table.Table(section, board);
      const panel = section.querySelector(".what-if-panel");
      this.panel = new whatif.Panel(panel, board, (weights, isFinal) => this.set({ weights, sort: isFinal ? null : this.state.sort }, isFinal));
      this.heads();
      this.search();
      this.columns();
      this.picks();
      for (const button of section.querySelectorAll(".tools [aria-controls]")) this.opens(button);
      section.querySelector(".controls").hidden = false;
    }

    set(change, isFinal = true) {
      this.page.go({ ...this.state, ...change }, isFinal);
    }

    show(state) {
      this.state = state;
      const results = ranking.isOfficial(state.weights) ? null : ranking.rank(this.board, state.weights);
      this.table.show(state, results);
      if (results !== null) this.open(this.section.querySelector(".open-what-if"), true);
      this.panel.show(state.weights, results);
      this.section.querySelector(".not-official").hidden = results === null;
      const input = this.section.querySelector(".filter input");
      if (input.value !== state.query) input.value = state.query;
      for (const box of this.boxes) box.checked = !state.hidden.includes(box.value);
      this.section.querySelector(".all-columns").disabled = state.hidden.length === 0;
      this.showPicks();
    }

    heads() {
      this.table.table.tHead.addEventListener("click", (event) => {
        const button = event.target.closest("button.sort");
        if (button === null) return;
        const { key } = button.closest("th").dataset;
        const now = this.state.sort ?? { key: ".rank", descending: false };
        const descending = now.key === key ? !now.descending : button.dataset.first === "descending";
        this.set({ sort: key === ".rank" && !descending ? null : { key, descending } });
      });
    }

    search() {
      const input = this.section.querySelector(".filter input");
      input.addEventListener("input", () => this.set({ query: input.value }, false));
      input.addEventListener("change", () => this.set({ query: input.value }));
      input.addEventListener("keydown", (event) => { if (event.key === "Escape") this.set({ query: "" }, false); });
    }

    columns() {
      this.boxes = [...this.section.querySelectorAll(".columns-panel input")];
      const chosen = () => this.boxes.filter((box) => !box.checked).map((box) => box.value);
      this.section.querySelector(".columns-panel").addEventListener("change", () => this.set({ hidden: chosen() }));
      this.section.querySelector(".all-columns").addEventListener("click", () => this.set({ hidden: [] }));
      for (const button of this.section.querySelectorAll("[data-only]")) {
        const wanted = button.dataset.only;
        const tasks = this.board.tasks.filter((task) => task.domain !== wanted && task.group !== wanted);
        const own = this.boxes.map((box) => box.value).filter((key) => key.startsWith(".") && this.state.hidden.includes(key));
        button.addEventListener("click", () => this.set({ hidden: [...own, ...tasks.map((task) => task.name)] }));
      }
    }

    // Boxes beside the names: what is ticked goes to compare.html.
    picks() {
      this.pickers = new Map();
      const model = site.element("input", { type: "checkbox", class: "pick" });
      for (const [index, line] of this.table.rows) {
        const row = this.board.rows[index];
        if (row.raw.every((value) => value === null)) continue;
        const box = model.cloneNode();
        box.ariaLabel = `Compare ${row.team}`;
        box.value = row.id;
        line.cells[TEAM].prepend(box);
        this.pickers.set(row.id, box);
      }
      this.table.table.addEventListener("change", ({ target }) => this.pick(target.value, target.checked));
    }

    pick(id, isPicked) {
      const others = this.state.picked.filter((each) => each !== id);
      this.set({ picked: isPicked ? [...others, id].slice(0, MOST) : others });
    }

    showPicks() {
      const { picked } = this.state;
      if (picked.length > 0 || this.table.table.classList.contains("picking")) {
        for (const [id, box] of this.pickers) {
          box.checked = picked.includes(id);
          box.disabled = !box.checked && picked.length >= MOST;
        }
      }
      const link = this.section.querySelector(".compare-link");
      link.href = `compare.html${address.format({ ...address.NONE, track: this.board.slug, picked })}`;
      link.querySelector("span").textContent = picked.length === 0 ? "" : `\u00a0(${picked.length})`;
      link.classList.toggle("ready", picked.length > 1);
      this.table.table.classList.toggle("picking", picked.length > 0);
    }

    opens(button) {
      button.addEventListener("click", () => this.open(button, button.getAttribute("aria-expanded") !== "true"));
    }

    open(button, isOpen) {
      button.setAttribute("aria-expanded", String(isOpen));
      document.getElementById(button.getAttribute("aria-controls")).hidden = !isOpen;
      this.panel.opened();
    }
  }

  class Page {
    constructor() {
      this.tracks = new Map();
      for (const board of SCORES) {
        const section = document.getElementById(board.slug);
        if (section.querySelector("table.board")) this.tracks.set(board.slug, new Track(section, board, this));
      }
      this.tabs = [...document.querySelectorAll(".tabs a")];
      this.makeTabs();
      addEventListener("popstate", () => this.show());
      this.show();
    }

    // Moves to a state, as a new step of the history unless the reader is still at it: typing, or pulling a slider.
    go(state, isFinal) {
      const said = address.format(state);
      if (said !== location.hash) history[this.isMoving ? "replaceState" : "pushState"](null, "", said);
      this.isMoving = !isFinal;
      this.render(state);
    }

    show() {
      this.isMoving = false;
      this.render(address.parse(location.hash, SCORES, table.columns));
    }

    render(state) {
      const link = this.tabs.find((each) => each.dataset.track === state.track);
      this.tabs.forEach((each) => {
        each.setAttribute("aria-selected", String(each === link));
        each.tabIndex = each === link ? 0 : -1;
        document.getElementById(each.dataset.track).classList.toggle("off", each !== link);
      });
      this.tracks.get(state.track)?.show(state);
    }

    makeTabs() {
      const nav = document.querySelector(".tabs");
      nav?.setAttribute("role", "tablist");
      const open = (link) => {
        const slug = link.dataset.track;
        this.go(this.tracks.get(slug)?.state ?? { ...address.NONE, track: slug }, true);
      };
      this.tabs.forEach((link, index) => {
        const panel = document.getElementById(link.dataset.track);
        link.setAttribute("role", "tab");
        link.id = `tab-${panel.id}`;
        link.setAttribute("aria-controls", panel.id);
        panel.setAttribute("role", "tabpanel");
        panel.removeAttribute("tabindex");
        link.addEventListener("click", (event) => { event.preventDefault(); open(link); });
        link.addEventListener("keydown", (event) => {
          const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          if (event.key === " ") { event.preventDefault(); open(link); }
          if (step === undefined) return;
          event.preventDefault();
          const next = this.tabs[(index + step + this.tabs.length) % this.tabs.length];
          open(next);
          next.focus();
        });
      });
    }
  }

  document.addEventListener("DOMContentLoaded", () => new Page());
})();

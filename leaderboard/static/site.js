// What all pages share: the dark toggle, and details that are open on paper. Without scripts a page is complete, only still.
"use strict";

const site = (() => {
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

  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
  document.addEventListener("DOMContentLoaded", () => themeToggle(document.querySelector(".theme")));

  // A number as the pages print it: fixed decimals, a true minus sign, a dash where there is none.
  function number(value, digits = 3) {
    if (value === null || value === undefined) return "–";
    const shown = value.toFixed(digits);
    return Number(shown) === 0 ? shown.replace("-", "") : shown.replace("-", "−");
  }

  // An element with attributes and children; texts stay texts.
  function element(name, attributes = {}, ...children) {
    return filled(document.createElement(name), attributes, children);
  }

  function drawing(name, attributes = {}, ...children) {
    return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  }

  function filled(made, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }

  // Copies a text, and says so in the button; where copying is refused, the text is marked for the reader to copy.
  function copyButton(button, shown, text) {
    const label = button.textContent;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text());
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(shown);
        button.textContent = "Marked: copy it";
      }
      button.addEventListener("blur", () => { button.textContent = label; }, { once: true });
    });
  }

  return { number, element, drawing, copyButton };
})();

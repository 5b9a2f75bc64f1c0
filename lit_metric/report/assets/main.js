// First what is few, painted at once; then the rest, one section after the other.

const SECTIONS = [["flips", renderFlips], ["map", renderMap], ["neighbours", renderNeighbours], ["confusions", renderConfusions], ["negatives", renderNegatives], ["attention", renderAttention], ["problems", renderProblems]];

function contents() {
  const list = byId("contents");
  const links = [...document.querySelectorAll("main > section")].filter((section) => section.id !== "flips" || first.comparison).map((section) => {
    const link = el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent);
    list.append(el("li", {}, link));
    return [section, link];
  });
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const [section, link] of links) {
        if (section === entry.target) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const [section] of links) seen.observe(section);
}

function theme() {
  const themes = ["system", "light", "dark"];
  const store = (name) => {
    try {
      if (name) localStorage.setItem("lit-metric-theme", name);
      return localStorage.getItem("lit-metric-theme");
    } catch {
      return null; // a page from a disk may keep nothing
    }
  };
  const use = (name) => {
    document.documentElement.dataset.theme = name;
    byId("theme").textContent = `Theme: ${name}`;
    if (map.plots.length) redraw();
  };
  use(themes.includes(store()) ? store() : "system");
  byId("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
    store(next);
    use(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => map.plots.length && redraw());
}

async function rest() {
  if (!("DecompressionStream" in window)) {
    byId("map").append(note("This browser can't inflate the rest of the page. Use Chrome or Edge 80, Firefox 113, Safari 16.4 or newer."));
    return;
  }
  await readAll();
  recallDecisions();
  for (const [name, render] of SECTIONS) {
    try {
      render();
    } catch (error) {
      byId(name).append(note(`This part could not be shown: ${error.message}`));
      console.error(error);
    }
    await nextFrame();
  }
  document.documentElement.dataset.ready = "yes";
  performance.mark("ready");
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

theme();
contents();
renderGlance();
renderAdvice();
document.addEventListener("DOMContentLoaded", () => nextFrame().then(rest));

// A table whose columns sort, and which shows more rows when asked.

const PAGE = 50;

// columns: {name, label, value(row), show(row)?, numeric?, hint?}; options: {caption, sort, down, detail(row)}
function table(columns, rows, options = {}) {
  let sorted = rows;
  let shown = options.page || PAGE;
  let { sort = null, down = true } = options;
  const body = el("tbody");
  const more = button("Show more", () => ((shown += 4 * (options.page || PAGE)), fill()), { class: "more" });
  const heads = columns.map((column) => {
    const title = column.value
      ? button(column.label, () => order(column.name), { class: "sort", title: column.hint || null })
      : el("span", {}, column.label);
    return el("th", { scope: "col", class: column.numeric ? "number" : null }, title);
  });

  function order(name) {
    const column = columns.find((each) => each.name === name);
    down = sort === name ? !down : Boolean(column.numeric);
    sort = name;
    arrange();
  }

  function arrange() {
    const column = columns.find((each) => each.name === sort);
    if (column) {
      const way = down ? -1 : 1;
      const missing = (value) => value === null || value === undefined;
      sorted = [...rows].sort((first, second) => {
        const [one, other] = [column.value(first), column.value(second)];
        if (missing(one) || missing(other)) return Number(missing(one)) - Number(missing(other));
        return way * (typeof one === "number" ? one - other : String(one).localeCompare(String(other)));
      });
    } else sorted = rows;
    columns.forEach((each, place) => {
      if (each.name === sort) heads[place].setAttribute("aria-sort", down ? "descending" : "ascending");
      else heads[place].removeAttribute("aria-sort");
    });
    fill();
  }

  function line(row) {
    const cells = columns.map((column) =>
      el("td", { class: column.numeric ? "number" : null }, column.show ? column.show(row) : visible(column.value(row) ?? "–")),
    );
    const made = el("tr", {}, cells);
    if (!options.detail) return [made];
    const detail = el("tr", { class: "detail", hidden: true }, el("td", { colspan: columns.length + 1 }));
    const toggle = button(options.detailLabel || "Examples", () => {
      const open = detail.hidden;
      if (open && !detail.dataset.made) {
        detail.firstChild.append(options.detail(row));
        detail.dataset.made = "1";
      }
      detail.hidden = !open;
      toggle.setAttribute("aria-expanded", String(open));
    }, { class: "quiet", "aria-expanded": "false" });
    made.append(el("td", {}, toggle));
    return [made, detail];
  }

  function fill() {
    body.replaceChildren(...sorted.slice(0, shown).flatMap(line));
    more.hidden = sorted.length <= shown;
    more.textContent = more.hidden ? "" : `Show more (${whole(sorted.length - shown)} left)`;
  }

  const head = el("tr", {}, heads, options.detail ? el("th", {}, el("span", { class: "hidden" }, "More")) : null);
  const made = el(
    "table",
    { class: options.class || null },
    options.caption ? el("caption", {}, options.caption) : null,
    el("thead", {}, head),
    body,
  );
  arrange();
  const frame = el("div", { class: "frame" }, el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": options.caption || "Table" }, made), more);
  frame.use = (others) => ((rows = others), (shown = options.page || PAGE), arrange());
  return frame;
}

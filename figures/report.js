"use strict";

// Sorting and filtering of the page's tables. The page can be read without any of this.

const inOrder = new Intl.Collator("en", { numeric: true });

function textOf(cell) {
  return cell.textContent.trim();
}

// What a row is sorted by in a column: a number or a text, null if there is none.
function keyOf(row, column, kind) {
  const cell = row.cells[column];
  if (kind === "number") {
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  }
  return textOf(cell) || null;
}

// Missing values stand last in both directions, and equal rows in the order in which the page has them.
function compare(a, b, sign) {
  if (a.key === null || b.key === null) {
    return (a.key === null) - (b.key === null) || a.at - b.at;
  }
  const order = typeof a.key === "number" ? a.key - b.key : inOrder.compare(a.key, b.key);
  return sign * order || a.at - b.at;
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const keyed = rows.map((row, at) => ({ row, at, key: keyOf(row, column, head.dataset.sort) }));
      keyed.sort((a, b) => compare(a, b, sign));
      body.append(...keyed.map((one) => one.row));
    });
  });
}

function makeFilterable(form) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
  const texts = rows.map((row) => [...row.cells].map(textOf).join("\n").toLowerCase());
  const search = form.querySelector("input");
  const selects = [...form.querySelectorAll("select")];
  for (const select of selects) {
    const values = new Set(rows.map((row) => textOf(row.cells[select.dataset.column])));
    values.delete("");
    for (const value of [...values].sort(inOrder.compare)) {
      select.append(new Option(value, value));
    }
  }
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, at) => {
      const fits =
        words.every((word) => texts[at].includes(word)) &&
        selects.every((one) => one.value === "" || textOf(row.cells[one.dataset.column]) === one.value);
      row.hidden = !fits;
      shown += fits;
    });
    form.querySelector("output").value = `${shown} of ${rows.length} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => {
    search.value = "";
    selects.forEach((one) => (one.value = ""));
    apply();
  });
  form.hidden = false;
  apply(); // a browser may have kept what was typed before
}

// A link may lead to a row that a filter hides.
function showTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (!target) {
    return;
  }
  const table = target.closest("table.sortable");
  if (table && target.hidden) {
    document.querySelector(`form[data-table="${table.id}"]`).reset();
  }
  target.scrollIntoView();
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("form.filter").forEach(makeFilterable);
window.addEventListener("hashchange", showTarget);
showTarget();

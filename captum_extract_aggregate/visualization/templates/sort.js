// A column's name becomes a button that sorts by it; what is undefined comes last either way.
const valueOf = cell => {
  const text = cell.dataset.value ?? cell.textContent.trim();
  const found = Number.parseFloat(text);
  return /^[-+]?[\d.]/.test(text) && !Number.isNaN(found) ? found : cell.dataset.value === "" || text === "undefined" || text === "" ? null : text;
};
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
}
for (const table of document.querySelectorAll("table.sortable"))
  for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
    if ("unsorted" in head.dataset) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falls = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map(row => [valueOf(row.cells[column]), row]);
      body.append(...rows.sort((a, b) => compare(a[0], b[0], falls ? -1 : 1)).map(([, row]) => row));
    });
  }

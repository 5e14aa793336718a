// Sorting by a click on a heading, and the marks as a file.
(function () {
  "use strict";
  const table = document.getElementById("subjects");
  const body = table.tBodies[0];

  function value(row, column) {
    const cell = row.cells[column];
    const text = (cell.querySelector("summary") || cell).textContent.trim(); // of warnings their number
    return text === "" || Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text);
  }

  Array.from(table.tHead.rows[0].cells).forEach(function (heading, column) {
    let rising = false;
    heading.addEventListener("click", function () {
      rising = !rising;
      const rows = Array.from(body.rows).map((row) => ({ row: row, key: value(row, column) }));
      rows.sort(function (a, b) {
        if (typeof a.key !== typeof b.key) return typeof a.key === "number" ? -1 : 1;
        return (a.key < b.key ? -1 : a.key > b.key ? 1 : 0) * (rising ? 1 : -1);
      });
      rows.forEach((entry) => body.appendChild(entry.row));
    });
  });

  document.getElementById("export").addEventListener("click", function () {
    const lines = ["subject\tmark"];
    Array.from(body.rows).forEach(function (row) {
      const marked = row.querySelector("input:checked");
      if (marked) lines.push(row.dataset.subject.replace(/[\t\n]/g, " ") + "\t" + marked.value);
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/tab-separated-values" }));
    link.download = "marks.tsv";
    link.click();
  });
})();

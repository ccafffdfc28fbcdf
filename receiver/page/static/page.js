// What HTML cannot do: keys, selection, lightbox, copying, dropping and pasting pictures, and drawing a mask.
"use strict";
const $ = (query, root = document) => root.querySelector(query);
const $$ = (query, root = document) => [...root.querySelectorAll(query)];
document.documentElement.classList.add("js");

// Times are sent in UTC, and shown as the reader's own.
const [format, exact] = ["short", "medium"].map((timeStyle) => new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle }));
function showTimes(root) {
  for (const item of $$("time[datetime]", root)) {
    const at = new Date(item.dateTime);
    const text = (item.closest(".timeline") ? exact : format).format(at);
    if (item.textContent !== text) item.textContent = text;
    item.title = item.dateTime;
  }
}

// Lightbox: a picture opens above the page, and Back closes it.
const box = $("#box");
let opener = null;
document.addEventListener("htmx:after:swap", (event) => {
  showTimes(document);
  drawMasks();
  count();
  if (box && !box.open && $("#box-inside").childElementCount) {
    history.pushState({ box: true }, "", $("#box-inside [data-id]")?.dataset.id ? opener?.href ?? location.href : location.href);
    box.showModal();
  }
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-box]");
  if (link) opener = link;
  if (event.target === box || event.target.closest("[data-close]")) box.close();
  if (event.target.closest("[data-step]")) move(Number(event.target.closest("[data-step]").dataset.step));
  if (event.target.closest("[data-copy]")) copy(event.target.closest("[data-copy]"));
  if (event.target.closest("[data-mask-clear]")) drawMasks(true);
});
box?.addEventListener("close", () => {
  $("#box-inside").replaceChildren();
  if (history.state?.box) history.back();
  opener?.focus();
});
addEventListener("popstate", () => box?.open && box.close());

async function copy(button) {
  const text = $("[data-prompt]", button.closest(".picture"))?.textContent ?? "";
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch { button.textContent = "Not allowed here"; }
  setTimeout(() => { button.textContent = "Copy prompt"; }, 1500);
}

// Selection: the bar below appears when something is ticked.
function count() {
  const chosen = $("#chosen");
  if (!chosen) return;
  const number = $$("#grid input:checked").length;
  chosen.classList.toggle("choosing", number > 0);
  $("#grid").classList.toggle("choosing", number > 0);
  $(".chosen-count").textContent = `${number} selected`;
}
document.addEventListener("change", count);

// Keys. They do nothing while somebody types.
const pages = { h: "/", p: "/pictures", m: "/make", t: "/tasks", d: "/deliveries", s: "/system" };
const root = $(".brand")?.pathname.replace(/\/$/, "") ?? "";
let going = false;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox]), textarea, select")) return;
  if (going) { going = false; if (pages[event.key]) location.href = root + pages[event.key]; return; }
  const picture = box?.open ? box : $(".picture");
  const digit = /^Digit([1-4])$/.exec(event.code)?.[1];
  if (digit && picture) $(`[data-key="${event.shiftKey ? "shift" : ""}${digit}"]`, picture)?.click();
  else if (event.key === "g") going = true;
  else if (event.key === "?") $("#keys")?.showModal();
  else if (event.key === "/") { event.preventDefault(); $("#search")?.focus(); }
  else if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
  else if (event.key === "x") { const box = $("input[type=checkbox]", document.activeElement.closest("[data-row], .tile") ?? document.createElement("i")); box?.click(); }
  else if (event.key === "p" && picture) $("[data-copy]", picture)?.click();
});
function move(step) {
  const items = $$(".tile > a, [data-row] a");
  if (box?.open) {
    const next = items[items.indexOf(opener) + step];
    if (next) { $("#box-inside").replaceChildren(); history.replaceState({ box: true }, "", next.href); next.click(); }
    return;
  }
  const row = document.activeElement.closest(".tile, [data-row]");
  const at = items.findIndex((item) => item.closest(".tile, [data-row]") === row);
  items[Math.min(Math.max(at + step, 0), items.length - 1)]?.focus();
}

// Pictures by drop or paste go into the file field, so that the form works the same without them.
function give(drop, files) {
  const field = $("input[type=file]", drop);
  const all = new DataTransfer();
  for (const file of [...(field.multiple ? field.files : []), ...files]) if (file.type.startsWith("image/")) all.items.add(file);
  if (!all.files.length) return;
  field.files = all.files;
  field.dispatchEvent(new Event("change", { bubbles: true }));
}
for (const drop of $$("[data-drop]")) {
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); give(drop, event.dataTransfer.files); });
  drop.addEventListener("change", () => {
    const shown = [...$("input[type=file]", drop).files].map((file) => Object.assign(new Image(), { src: URL.createObjectURL(file), alt: file.name }));
    $(".previews", drop).replaceChildren(...shown);
  });
}
addEventListener("paste", (event) => {
  const drop = document.activeElement?.closest("[data-drop]") ?? $("[data-drop]");
  if (drop && event.clipboardData.files.length) give(drop, event.clipboardData.files);
});

// The mask of "vary region": white is made anew, black is kept (PROTOCOL.md §2, modal).
function drawMasks(clear = false) {
  for (const canvas of $$("canvas[data-mask]")) {
    if (canvas.dataset.ready && !clear) continue;
    canvas.dataset.ready = "yes";
    const picture = new Image();
    picture.onload = () => {
      const size = { width: picture.naturalWidth, height: picture.naturalHeight };
      const [drawn, mask] = [0, 1].map(() => Object.assign(document.createElement("canvas"), size));
      Object.assign(canvas, size);
      const [seen, brush, kept] = [canvas, drawn, mask].map((item) => item.getContext("2d"));
      Object.assign(brush, { strokeStyle: "#fff", lineWidth: size.width / 12, lineCap: "round" });
      const show = () => { seen.drawImage(picture, 0, 0); seen.globalAlpha = 0.6; seen.drawImage(drawn, 0, 0); seen.globalAlpha = 1; };
      const out = $("[data-mask-out]", canvas.closest("form"));
      out.value = "";
      let last = null;
      const at = (event) => { const frame = canvas.getBoundingClientRect(); return [(event.clientX - frame.left) * canvas.width / frame.width, (event.clientY - frame.top) * canvas.height / frame.height]; };
      canvas.onpointerdown = (event) => { canvas.setPointerCapture(event.pointerId); last = at(event); canvas.onpointermove(event); };
      canvas.onpointermove = (event) => {
        if (!last) return;
        const here = at(event);
        brush.beginPath(); brush.moveTo(...last); brush.lineTo(...here); brush.stroke();
        last = here;
        show();
      };
      canvas.onpointerup = () => { last = null; kept.fillRect(0, 0, size.width, size.height); kept.drawImage(drawn, 0, 0); out.value = mask.toDataURL("image/png"); };
      show();
    };
    picture.src = canvas.dataset.mask;
  }
}

showTimes(document);
drawMasks();
count();

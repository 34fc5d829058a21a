// The table's rows, the link to a clip, and the player: single frames, speed, and a cursor on the curve of the error.
window.motiontune = { picked: -1 };
(() => {
  const times = (box) => JSON.parse(box.dataset.times);
  const video = (box) => box.querySelector("video");
  const player = () => document.querySelector(".mt-player");

  // each picture lasts until the next one; the last one until the film ends
  const starts = (box) => { const all = times(box); return all.map((one) => one - all[0]); };
  const frame = (box) => Math.max(0, starts(box).findLastIndex((one) => one <= video(box).currentTime + 1e-3));

  function go(box, number) {
    const all = starts(box);
    const here = (number + all.length) % all.length;
    video(box).pause();
    video(box).currentTime = (all[here] + (all[here + 1] ?? video(box).duration)) / 2;
  }

  function follow(box) {
    const number = frame(box), time = times(box)[number];
    box.querySelector(".mt-time").textContent = `frame ${number + 1} of ${times(box).length}, ${time.toFixed(2)} s`;
    const curve = document.querySelector(".mt-curve");
    if (!curve) return;
    const { box: [left, right], limits: [low, high] } = JSON.parse(curve.dataset.axis);
    const share = (time - low) / (high - low);
    const cursor = curve.querySelector(".mt-cursor");
    cursor.hidden = share < 0 || share > 1;
    cursor.style.left = `${100 * (left + share * (right - left))}%`;
  }

  function pick(row) {
    if (!row) return;
    for (const one of row.parentNode.querySelectorAll("[aria-selected]")) one.removeAttribute("aria-selected");
    row.setAttribute("aria-selected", true);
    const list = row.closest("#clips"), head = list.querySelector("thead").offsetHeight;
    const { top, bottom } = row.getBoundingClientRect(), box = list.getBoundingClientRect();
    if (top < box.top + head) list.scrollTop -= box.top + head - top;
    if (bottom > box.bottom) list.scrollTop += bottom - box.bottom;
    motiontune.picked = Number(row.dataset.row);
    document.querySelector("#pick").click();
    // where the film lies below, or has been left above, what was chosen would not be seen
    const line = document.querySelector("#line"), at = line.getBoundingClientRect().top;
    if (at > 0.6 * innerHeight || at < -40) line.scrollIntoView({ behavior: "smooth" });
  }

  function move(by) {
    const rows = [...document.querySelectorAll("#clips [data-row]")];
    pick(rows[rows.findIndex((row) => row.hasAttribute("aria-selected")) + by]);
  }

  document.addEventListener("click", (event) => {
    const row = event.target.closest("#clips [data-row]");
    if (row) return pick(row);
    const button = event.target.closest(".mt-bar button");
    if (button) {
      const box = button.closest(".mt-player");
      if (button.dataset.clip) move(Number(button.dataset.clip));
      if (button.dataset.step) go(box, frame(box) + Number(button.dataset.step));
      if (button.dataset.speed) {
        video(box).playbackRate = Number(button.dataset.speed);
        for (const one of box.querySelectorAll("[data-speed]")) one.setAttribute("aria-pressed", one === button);
      }
      return;
    }
    const curve = event.target.closest(".mt-curve");
    if (curve && player()) {
      const { box: [left, right], limits: [low, high] } = JSON.parse(curve.dataset.axis);
      const { x, width } = curve.getBoundingClientRect();
      const time = low + ((event.clientX - x) / width - left) / (right - left) * (high - low);
      const away = times(player()).map((one) => Math.abs(one - time));
      go(player(), away.indexOf(Math.min(...away)));
    }
  });
  document.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [move, -1], ArrowDown: [move, 1], ArrowLeft: ["step", -1], ArrowRight: ["step", 1] }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, textarea, select, [role=listbox]")) return;
    event.preventDefault();
    if (by[0] === move) move(by[1]);
    else if (player()) go(player(), frame(player()) + by[1]);
  }, true);
  for (const name of ["timeupdate", "seeked", "loadeddata"]) {
    document.addEventListener(name, (event) => {
      const box = event.target.closest?.(".mt-player");
      if (box) follow(box);
    }, true);
  }
  // A page with this listener is not kept when it is left. Gradio's would hold a connection open, and of those a browser
  // has six for one server: after as many links nothing would load any more.
  addEventListener("unload", () => {});
  // the address becomes that of the clip that is open
  new MutationObserver(() => {
    const link = document.querySelector(".mt-name a")?.getAttribute("href");
    if (link && location.search !== link) history.replaceState(null, "", link);
  }).observe(document, { childList: true, subtree: true });
})();

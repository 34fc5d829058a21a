// The player: single frames, speed, and a cursor on the curve of the error that follows the film.
(() => {
  const times = (box) => JSON.parse(box.dataset.times);
  const video = (box) => box.querySelector("video");
  const rate = (box) => (video(box).duration ? times(box).length / video(box).duration : 1);
  const frame = (box) => Math.min(Math.floor(video(box).currentTime * rate(box) + 1e-3), times(box).length - 1);

  function go(box, number) {
    const count = times(box).length;
    video(box).pause();
    video(box).currentTime = (((number + count) % count) + 0.5) / rate(box);
  }

  function follow(box) {
    const number = frame(box);
    box.querySelector(".mt-time").textContent = `frame ${number + 1} of ${times(box).length}, ${times(box)[number].toFixed(2)} s`;
    const curve = document.querySelector(".mt-curve");
    if (!curve) return;
    const { box: [left, right], limits: [low, high] } = JSON.parse(curve.dataset.axis);
    const share = (times(box)[number] - low) / (high - low);
    const cursor = curve.querySelector(".mt-cursor");
    cursor.hidden = share < 0 || share > 1;
    cursor.style.left = `${100 * (left + share * (right - left))}%`;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".mt-bar button");
    if (button) {
      const box = button.closest(".mt-player");
      if (button.dataset.step) go(box, frame(box) + Number(button.dataset.step));
      if (button.dataset.speed) {
        video(box).playbackRate = Number(button.dataset.speed);
        for (const one of box.querySelectorAll("[data-speed]")) one.setAttribute("aria-pressed", one === button);
      }
      return;
    }
    const curve = event.target.closest(".mt-curve");
    const box = document.querySelector(".mt-player");
    if (curve && box) {
      const { box: [left, right], limits: [low, high] } = JSON.parse(curve.dataset.axis);
      const { x, width } = curve.getBoundingClientRect();
      const time = low + ((event.clientX - x) / width - left) / (right - left) * (high - low);
      const away = times(box).map((one) => Math.abs(one - time));
      go(box, away.indexOf(Math.min(...away)));
    }
  });
  for (const name of ["timeupdate", "seeked", "loadeddata"]) {
    document.addEventListener(name, (event) => {
      const box = event.target.closest?.(".mt-player");
      if (box) follow(box);
    }, true);
  }
})();

// Shows the uploaded clip from props.value: {path, kind, pictures, facts}. Text goes through textContent only.
function play(player, path) {
  const note = element.querySelector(".fa-unplayable");
  const refuse = () => { player.hidden = true; note.hidden = false; };
  player.hidden = false;
  player.onerror = refuse;
  // A video whose picture cannot be decoded may still play its sound: that is no preview either.
  player.onloadedmetadata = () => { if (player.tagName === "VIDEO" && !player.videoWidth) refuse(); };
  const source = "gradio_api/file=" + encodeURIComponent(path);
  if (player.getAttribute("src") !== source) player.src = source;
  else if (player.error) refuse();
}

function show() {
  const clip = props.value;
  const figure = element.querySelector("figure");
  figure.hidden = !clip || !clip.path;
  element.querySelector(".fa-unplayable").hidden = true;
  for (const player of element.querySelectorAll("video, audio")) {
    if (!figure.hidden && player.tagName.toLowerCase() === clip.kind) {
      play(player, clip.path);
    } else {
      player.hidden = true;
      player.onerror = null;
      player.removeAttribute("src");
    }
  }
  if (figure.hidden) return;
  element.querySelector(".fa-strip").replaceChildren(...clip.pictures.map((address, i) => {
    const picture = new Image();
    picture.src = address;
    picture.alt = `frame ${i + 1} of ${clip.pictures.length}`;
    return picture;
  }));
  element.querySelector("figcaption").textContent = clip.facts;
}
watch("value", show);
show();

// Shows the uploaded clip from props.value: {path, kind, pictures, facts}. Text goes through textContent only.
function show() {
  const clip = props.value;
  const figure = element.querySelector("figure");
  figure.hidden = !clip || !clip.path;
  if (figure.hidden) return;
  const unplayable = element.querySelector(".fa-unplayable");
  for (const kind of ["video", "audio"]) {
    const player = element.querySelector(kind);
    player.hidden = kind !== clip.kind;
    player.onerror = () => { player.hidden = true; unplayable.hidden = false; };
    if (kind !== clip.kind) continue;
    player.src = "gradio_api/file=" + encodeURIComponent(clip.path);
    // A video whose picture cannot be decoded may still play its sound: that is not a preview either.
    player.onloadedmetadata = () => { if (kind === "video" && !player.videoWidth) player.onerror(); };
  }
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

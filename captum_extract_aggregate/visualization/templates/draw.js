// How pages draw a map over its picture: as `visualization.blending` does.
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

// Between the centres of the map's positions, as torch's interpolate with align_corners=False.
function upsampled(map, width, height) {
  const values = new Int8Array(bytes(map.values).buffer), out = new Float32Array(width * height);
  const at = (u, n, size) => {
    const p = Math.min(Math.max((u + 0.5) * n / size - 0.5, 0), n - 1), low = Math.floor(p);
    return [low, Math.min(low + 1, n - 1), p - low];
  };
  for (let y = 0; y < height; y++) {
    const [y0, y1, b] = at(y, map.height, height);
    for (let x = 0; x < width; x++) {
      const [x0, x1, a] = at(x, map.width, width), v = (j, i) => values[j * map.width + i];
      out[y * width + x] = (1 - b) * ((1 - a) * v(y0, x0) + a * v(y0, x1)) + b * ((1 - a) * v(y1, x0) + a * v(y1, x1));
    }
  }
  return out;
}

// Draws a picture under a map; `scale` is the magnitude at the end of the colours.
function paint(canvas, map, { table, signed, scale, opacity }, picture) {
  canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height), pixels = image.data;
  const values = upsampled(map, canvas.width, canvas.height);
  for (let i = 0; i < values.length; i++) {
    const grey = (pixels[4 * i] + pixels[4 * i + 1] + pixels[4 * i + 2]) / 3;
    const share = scale > 0 ? values[i] / 127 * map.scale / scale : 0;
    const index = Math.round(255 * (signed ? (share + 1) / 2 : Math.max(share, 0)));
    const covered = opacity * Math.sqrt(Math.min(Math.abs(share), 1));  // the picture keeps half of its colours
    for (let c = 0; c < 3; c++)
      pixels[4 * i + c] = (1 - covered) * (grey + pixels[4 * i + c]) / 2 + covered * table[3 * index + c];
  }
  context.putImageData(image, 0, 0);
}

// A colour bar's background.
function gradient(table) {
  const stops = Array.from({ length: 9 }, (_, i) => Array.from(table.slice(3 * Math.round(255 * i / 8), 3 * Math.round(255 * i / 8) + 3)));
  return `linear-gradient(to right, ${stops.map(rgb => `rgb(${rgb})`).join(",")})`;
}

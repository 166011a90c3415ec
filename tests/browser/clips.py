"""Files as phones, messengers and mistakes make them, written with PyAV."""

from fractions import Fraction

import av
import numpy as np

SECONDS, FPS = 2, 12


def _picture(i: int) -> np.ndarray:
    """uint8 [144, 192, 3]: a red square that moves over grey."""
    frame = np.full((144, 192, 3), 110, np.uint8)
    frame[40:80, 10 + 5 * i : 50 + 5 * i] = (210, 40, 40)
    return frame


def write(path, video=None, audio=None, *, rate=16_000, layout="mono", rotation=0, variable=False, options=None) -> str:
    """A 2 s clip with the named codecs; `variable` makes the frames come at uneven times."""
    with av.open(str(path), "w") as container:
        if video:
            stream = container.add_stream(video, rate=FPS, options=options or {})
            stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                stream.set_display_rotation(rotation)
        if audio:
            sound = container.add_stream(audio, rate=rate, layout=layout)
        if video:
            for i in range(SECONDS * FPS):
                frame = av.VideoFrame.from_ndarray(_picture(i), format="rgb24")
                frame.pts = i * 1000 // FPS + (i % 3 * 11 if variable else 0)
                frame.time_base = Fraction(1, 1000)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if audio:
            wave = 0.2 * np.sin(2 * np.pi * 440 * np.arange(SECONDS * rate) / rate)
            wave = np.tile(wave.astype(np.float32), (1 if layout == "mono" else 2, 1))
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
            frame.rate, frame.pts = rate, 0
            fifo = av.AudioFifo()
            for piece in av.AudioResampler(format=sound.format.name, layout=layout, rate=rate).resample(frame):
                fifo.write(piece)
            while piece := fifo.read(sound.frame_size or 1024, partial=True):
                container.mux(sound.encode(piece))
            container.mux(sound.encode())
    return str(path)

"""Pictures, sounds and texts in files: what is read is what was written, and what is damaged is said to be, one by one."""

import io
import struct
import zlib

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from jaxalign.commands.composed import compose
from jaxalign.contracts import Sound
from jaxalign.errors import ConfigError, DataError
from jaxalign.models.sound import resampled
from jaxalign.runtime.extraction import shown_by_kind
from jaxalign.sources import STIMULI
from jaxalign.sources.audio_files import Sounds
from jaxalign.sources.image_files import Images
from jaxalign.sources.media import natural
from jaxalign.sources.pictures import Pictures
from jaxalign.sources.text_files import Texts


@pytest.fixture
def picture(rng):
    """(20, 31, 3) uint8, smooth enough for lossy formats."""
    y, x = np.mgrid[:20, :31]
    return np.stack([8 * y + 40, 6 * x + 30, 3 * (x + y) + 60], axis=-1).astype(np.uint8)


def save(folder, name, pixels, **options):
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


def only(folder, **options):
    """The one picture of a folder."""
    (found,) = Images(str(folder), **options).images()
    return found


# Which files, under which ids, in which order


def test_names_are_ordered_as_people_count():
    names = ["s10", "s9", "S2b", "s2a", "a", "s1-20", "s1-3"]
    assert sorted(names, key=natural) == ["a", "s1-3", "s1-20", "s2a", "S2b", "s9", "s10"]


def test_ids_are_names_without_suffix_in_natural_order(tmp_path, picture):
    for name in ("cat10.png", "cat9.jpg", "CAT1.PNG", "notes.txt", "._cat9.jpg"):
        (tmp_path / name).write_bytes(b"x") if name[0] in "n." else save(tmp_path, name, picture)
    images = Images(str(tmp_path))
    assert images.ids() == ("CAT1", "cat9", "cat10") and images.groups() is None
    assert Images(str(tmp_path), pattern="cat*").ids() == ("cat9", "cat10")
    assert len(list(images.images())) == 3


def test_folders_within_are_read_when_asked(tmp_path, picture):
    (tmp_path / "dogs").mkdir()
    save(tmp_path / "dogs", "a.png", picture)
    assert Images(str(tmp_path), recursive=True).ids() == ("a",)
    with pytest.raises(DataError, match=r"recursive=true.*\.png"):
        Images(str(tmp_path)).ids()


def test_two_files_of_one_name_are_refused_with_both(tmp_path, picture):
    for name in ("a.png", "a.jpg", "b.png"):
        save(tmp_path, name, picture)
    with pytest.raises(
        DataError, match=r"3 stimuli have 2 different ids; 1 occur more than once, first 'a' \(a.jpg, a.png\)"
    ):
        Images(str(tmp_path)).ids()


def test_a_folder_that_is_not_there_names_its_neighbours(tmp_path):
    (tmp_path / "stimuli").mkdir()
    with pytest.raises(ConfigError, match=r"does not exist.*Nearest: stimuli"):
        Images(str(tmp_path / "stimulus")).ids()


def test_a_folder_under_the_data_folder_is_found(tmp_path, picture, monkeypatch):
    (tmp_path / "set").mkdir()
    save(tmp_path / "set", "a.png", picture)
    monkeypatch.setenv("JAXALIGN_DATA", str(tmp_path))
    assert Images("set").ids() == ("a",)


def test_a_file_instead_of_a_folder_and_no_folder_at_all(tmp_path, picture):
    with pytest.raises(ConfigError, match="is a file"):
        Images(str(save(tmp_path, "a.png", picture))).ids()
    for kind in (Images, Sounds, Texts):
        with pytest.raises(ConfigError, match=r"nowhere: set stimuli\.path"):
            kind().ids()


def test_files_of_another_kind_are_counted(tmp_path):
    for name in ("a.mat", "b.mat", "c.txt"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"3 files match, 2 \.mat, 1 \.txt"):
        Images(str(tmp_path)).ids()


def write_table(folder, rows, name="table.csv"):
    (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(folder / name)


def test_a_table_decides_ids_order_and_groups(tmp_path, picture):
    for name in ("x1.png", "x2.png"):
        save(tmp_path, name, picture)
    table = write_table(
        tmp_path, ["stimulus_id,file,group", "late,x2.png,dogs", "early,x1.png,cats", "twin,x2.png,dogs"]
    )
    images = Images(table=table)
    assert images.ids() == ("late", "early", "twin")
    np.testing.assert_array_equal(images.groups(), [0, 1, 0])
    np.testing.assert_array_equal(images.image(1), picture)


def test_files_of_a_table_may_lie_elsewhere(tmp_path, picture):
    (tmp_path / "media").mkdir()
    save(tmp_path / "media", "x.png", picture)
    table = write_table(tmp_path, ["stimulus_id\tfile", "a\tx.png"], "table.tsv")
    assert Images(path=str(tmp_path / "media"), table=table).ids() == ("a",)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["stimulus_id,file", "a,x9.png", "b,x1.png"], r"1 of 2 files.*x9.png \(line 2\).*Nearest: x1.png"),
        (["stimulus_id,file", "a,x1.png", "a,x1.png"], r"2 stimuli have 1 different ids.*'a' \(line 2, line 3\)"),
        (["stimulus_id,file", " ,x1.png"], "1 of 1 stimuli have an empty id, first at line 2"),
        (["stimulus_id,files", "a,x1.png"], "no column 'file'.*Nearest: files"),
        (["stimulus_id;file", "a;x1.png"], "semicolons"),
        (["stimulus_id,file,file", "a,x1.png,x1.png"], "3 columns and 'file' more than once"),
        (["stimulus_id,file", "a,x1.png,b"], "line 2, has 3 fields and the header has 2"),
        (["stimulus_id,file"], "has 0 stimuli"),
        ([""], "is empty"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_with_lines(tmp_path, picture, rows, message):
    save(tmp_path, "x1.png", picture)
    with pytest.raises(DataError, match=message):
        Images(table=write_table(tmp_path, rows)).ids()


def test_a_table_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "t.csv").write_bytes("stimulus_id,text\na,Käse\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"not UTF-8: byte 20 is 0xe4"):
        Texts(str(tmp_path / "t.csv")).ids()


@pytest.mark.parametrize("change", ["byte", "name"])
def test_the_digest_knows_bytes_and_names(tmp_path, picture, change):
    path = save(tmp_path, "a.png", picture)
    before = Images(str(tmp_path)).content_sha256()
    assert before == Images(str(tmp_path)).content_sha256() and len(before) == 64
    if change == "byte":
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
    else:
        path.rename(tmp_path / "b.png")
    assert Images(str(tmp_path)).content_sha256() != before


# Pictures


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "gif", "webp", "jpg"])
def test_formats_give_the_same_pixels(tmp_path, picture, suffix):
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    save(tmp_path, f"a.{suffix}", picture, **options)
    found = only(tmp_path)
    assert found.dtype == np.uint8 and found.shape == (20, 31, 3)
    np.testing.assert_allclose(found.astype(int), picture, atol={"jpg": 4, "gif": 12}.get(suffix, 0))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_modes_become_red_green_blue(tmp_path, picture, mode):
    image = Image.fromarray(picture).convert(mode)
    image.save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    np.testing.assert_array_equal(only(tmp_path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("alpha", [0, 100, 255])
def test_transparency_is_laid_on_grey(tmp_path, picture, alpha):
    save(tmp_path, "a.png", np.dstack([picture, np.full(picture.shape[:2], alpha, np.uint8)]))
    expected = picture * (alpha / 255) + 128 * (1 - alpha / 255)
    np.testing.assert_allclose(only(tmp_path).astype(float), expected, atol=1)


@pytest.mark.parametrize("transparency", [0, b"\0\xff"])
def test_transparent_entries_of_a_palette_are_grey(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=transparency)
    np.testing.assert_array_equal(only(tmp_path), [[[128, 128, 128], [0, 250, 0]]])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_become_eight(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(only(tmp_path)[0, :, 0], np.round(values[0] / 257))


def test_sixteen_bits_of_colour_become_eight(tmp_path):
    """Pillow writes no such PNG, so this one is made by hand."""
    values = np.array([[[0, 255, 256], [32896, 65535, 513]]], ">u2")

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + values.tobytes())
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(only(tmp_path), values >> 8)


@pytest.mark.parametrize(("orientation", "turn"), [(1, lambda p: p), (3, lambda p: p[::-1, ::-1]),
                                                   (6, lambda p: np.rot90(p, -1)), (8, lambda p: np.rot90(p))])  # fmt: skip
def test_pictures_stand_upright(tmp_path, picture, orientation, turn):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path, "a.png", picture, exif=exif)
    np.testing.assert_array_equal(only(tmp_path), turn(picture))


def test_several_frames_and_numbers_without_a_white_are_refused(tmp_path, picture):
    frames = [Image.fromarray(picture), Image.fromarray(255 - picture)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.full((2, 2), 7.5, np.float32)).save(tmp_path / "b.tif")
    images = Images(str(tmp_path))
    with pytest.raises(DataError, match=r"a\.gif has 2 frames"):
        images.image(0)
    with pytest.raises(DataError, match=r"from 7\.5 to 7\.5 of 32 bits"):
        images.image(1)


def damaged_png(content, kind):
    if kind == "bit":  # one bit of the compressed pixels
        at = content.index(b"IDAT") + 10
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    return {"cut": content[: len(content) // 2], "empty": b"", "text": b"not a picture", "header": content[:33]}[kind]


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "header", "bit"])
def test_a_damaged_picture_is_named_when_its_turn_comes(tmp_path, picture, kind):
    for name in ("1.png", "2.png", "3.png"):
        path = save(tmp_path, name, picture)
        if name == "2.png":
            path.write_bytes(damaged_png(path.read_bytes(), kind))
    images = Images(str(tmp_path))
    assert len(images.ids()) == 3 and images.content_sha256()
    with pytest.raises(DataError, match=r"2\.png \(\d+ bytes\) cannot be decoded as a picture: .+ Copy or download"):
        images.image(1)
    np.testing.assert_array_equal(images.image(2), picture)


def test_a_jpeg_that_is_cut_short_is_refused(tmp_path, picture):
    path = save(tmp_path, "a.jpg", np.tile(picture, (10, 10, 1)))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="truncated"):
        only(tmp_path)


def test_a_file_that_went_away_is_named(tmp_path, picture):
    path = save(tmp_path, "a.png", picture)
    images = Images(str(tmp_path))
    assert images.ids() == ("a",)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        images.image(0)
    with pytest.raises(DataError, match=r"a\.png"):
        images.content_sha256()


@pytest.mark.parametrize("index", [-1, 1])
def test_an_index_without_a_stimulus_is_an_error(tmp_path, picture, index):
    save(tmp_path, "a.png", picture)
    with pytest.raises(IndexError, match="among 1"):
        Images(str(tmp_path)).image(index)


def test_the_pictures_that_ship_can_be_had_one_by_one():
    pictures = Pictures(5, 32)
    for index, image in enumerate(pictures.images()):
        np.testing.assert_array_equal(pictures.image(index), image)


# Sounds


@pytest.fixture
def wave(rng):
    """(8000,) float32, a second at 8 kHz."""
    t = np.arange(8000) / 8000
    return (0.3 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)


STEP = {"PCM_U8": 2**-7, "PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 0, "DOUBLE": 0, "VORBIS": 0.05}
"""Largest error of a sample: one step of the format, since the writer cuts what is below; Vorbis loses more."""

FORMATS = [
    *(("wav", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "DOUBLE", "PCM_U8")),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
    ("aiff", "PCM_16"),
    ("ogg", "VORBIS"),
]


@pytest.mark.parametrize(("suffix", "subtype"), FORMATS)
def test_formats_give_the_same_samples(tmp_path, wave, suffix, subtype):
    sf.write(tmp_path / f"a.{suffix}", wave, 8000, subtype=subtype)
    (sound,) = Sounds(str(tmp_path)).sounds()
    assert sound.rate_hz == 8000 and sound.values.dtype == np.float32 and sound.values.shape == (8000,)
    np.testing.assert_allclose(sound.values, wave, rtol=0, atol=STEP[subtype] * 1.001)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000])
@pytest.mark.parametrize("n_channels", [1, 2, 6])
def test_channels_are_averaged_and_the_rate_is_the_file_s(tmp_path, rng, rate, n_channels):
    values = rng.uniform(-0.5, 0.5, (1200, n_channels)).astype(np.float32)
    sf.write(tmp_path / "a.wav", values, rate, subtype="FLOAT")
    sounds = Sounds(str(tmp_path))
    sound = sounds.sound(0)
    np.testing.assert_allclose(sound.values, values.mean(axis=1), atol=1e-7)
    assert sound.rate_hz == rate and sounds.durations_s() == (pytest.approx(1200 / rate),) == (sound.duration_s,)


def test_silence_is_a_sound(tmp_path):
    sf.write(tmp_path / "a.wav", np.zeros(50), 8000)
    assert not Sounds(str(tmp_path)).sound(0).values.any()


def test_an_mp3_keeps_its_length(tmp_path, wave):
    sf.write(tmp_path / "a.mp3", wave, 8000)
    sounds = Sounds(str(tmp_path))
    assert sounds.durations_s()[0] == pytest.approx(1, abs=0.1) and sounds.sound(0).duration_s == pytest.approx(
        1, abs=0.1
    )


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_sound_that_is_cut_short_is_named_when_its_turn_comes(tmp_path, wave, suffix, share):
    for name in "123":
        sf.write(tmp_path / f"{name}.{suffix}", wave, 8000)
    path = tmp_path / f"2.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    sounds = Sounds(str(tmp_path))
    assert len(sounds.durations_s()) == 3
    with pytest.raises(DataError, match=rf"2\.{suffix} .*(is cut short|cannot be decoded)"):
        sounds.sound(1)
    assert len(sounds.sound(2).values) == 8000


def test_a_header_without_samples_is_refused(tmp_path, wave):
    sf.write(tmp_path / "a.wav", wave[:0], 8000)
    sf.write(tmp_path / "b.wav", wave, 8000, subtype="PCM_16")
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes()[:44])
    sounds = Sounds(str(tmp_path))
    with pytest.raises(DataError, match=r"a\.wav \(\d+ bytes\) has a header and 0 samples"):
        sounds.sound(0)
    with pytest.raises(DataError, match=r"promises 16000 bytes of samples and 0 are there"):
        sounds.sound(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_counted(tmp_path, wave, bad):
    wave[4000:4003] = bad
    sf.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"3 of 8000 samples are NaN or infinite, first at 0\.5000 s"):
        Sounds(str(tmp_path)).sound(0)


@pytest.mark.parametrize("content", [b"", b"not a sound", b"RIFF\0\0\0\0WAVE"])
def test_what_is_no_sound_is_refused_and_has_no_duration(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    sounds = Sounds(str(tmp_path))
    assert sounds.durations_s() == (0.0,)
    with pytest.raises(DataError, match="cannot be decoded as a sound"):
        sounds.sound(0)


def test_a_streamed_wav_of_unknown_length_is_whole(tmp_path, wave):
    """ffmpeg writes the largest number where it cannot go back to write the length."""
    sf.write(tmp_path / "a.wav", wave, 8000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = content[4:8] = b"\xff" * 4
    (tmp_path / "a.wav").write_bytes(content)
    assert len(Sounds(str(tmp_path)).sound(0).values) == 8000


# Another rate


@pytest.mark.parametrize(
    ("old", "new"), [(44100, 16000), (8000, 16000), (48000, 16000), (22050, 16000), (16000, 11025)]
)
def test_a_tone_is_the_same_tone_at_another_rate(old, new):
    """Exact rational ratio and no delay: samples are those of the same sine at the new times."""
    tone = np.sin(2 * np.pi * 600 * np.arange(old) / old + 0.3).astype(np.float32)
    found = resampled(Sound(tone, old), new)
    assert found.rate_hz == new and len(found.values) == new and found.values.dtype == np.float32
    inner = slice(new // 10, -new // 10)
    expected = np.sin(2 * np.pi * 600 * np.arange(new) / new + 0.3)
    np.testing.assert_allclose(found.values[inner], expected[inner], atol=2e-3)


def test_what_the_new_rate_cannot_hold_is_taken_out():
    tone = np.sin(2 * np.pi * 11000 * np.arange(44100) / 44100).astype(np.float32)
    found = resampled(Sound(tone, 44100), 16000).values
    assert np.abs(found[1600:-1600]).max() < 2e-3, "11 kHz would be heard as 5 kHz"
    naive = tone[:: 44100 // 16000]
    assert np.abs(naive).max() > 0.9


@pytest.mark.parametrize("n_samples", [1, 2, 160, 999])
def test_the_length_is_rounded_up(n_samples):
    assert len(resampled(Sound(np.ones(n_samples, np.float32), 44100), 16000).values) == -(-n_samples * 160 // 441)


def test_the_same_rate_changes_nothing(wave):
    assert resampled(Sound(wave, 8000), 8000).values is wave


def test_rates_and_shapes_that_cannot_be_are_refused(wave):
    with pytest.raises(ConfigError, match="0 Hz"):
        resampled(Sound(wave, 8000), 0)
    with pytest.raises(DataError, match=r"shape \(8000, 1\)"):
        resampled(Sound(wave[:, None], 8000), 16000)


# Texts


def test_texts_are_what_is_in_the_table(tmp_path):
    path = write_table(
        tmp_path,
        [
            "\ufeffstimulus_id,cue,association,group",
            'a,"one, two",NA,x',
            "b,Käse,1.50,y",
            '"c","say ""hi""\nthere",null,x',
        ],
    )
    texts = Texts(path)
    assert texts.ids() == ("a", "b", "c")
    np.testing.assert_array_equal(texts.groups(), [0, 1, 0])
    assert list(texts.texts()) == [
        {"cue": "one, two", "association": "NA"},
        {"cue": "Käse", "association": "1.50"},
        {"cue": 'say "hi"\nthere', "association": "null"},
    ]
    assert Texts(path, columns=["cue"]).text(1) == {"cue": "Käse"}


def test_a_blank_text_is_named_when_its_turn_comes(tmp_path):
    path = write_table(tmp_path, ["stimulus_id\tone\ttwo", "a\tx\ty", "b\t \ty", "c\tx\ty"], "t.tsv")
    texts = Texts(path)
    with pytest.raises(DataError, match="line 3: the text of 'b' in column 'one' is blank"):
        texts.text(1)
    assert texts.text(2) == {"one": "x", "two": "y"} and Texts(path, ("two",)).text(1) == {"two": "y"}


@pytest.mark.parametrize(
    ("rows", "columns", "error", "message"),
    [
        (["stimulus_id,text", "a,x"], ("texts",), ConfigError, "Nearest: text"),
        (["stimulus_id,group", "a,x"], (), DataError, "no text"),
        (["id,text", "a,x"], (), DataError, "no column 'stimulus_id'"),
        (["stimulus_id,text", "a,x", "a,y"], (), DataError, "2 stimuli have 1 different ids"),
    ],
)
def test_a_table_of_texts_that_cannot_be_read(tmp_path, rows, columns, error, message):
    with pytest.raises(error, match=message):
        Texts(write_table(tmp_path, rows), columns).ids()


def test_the_digest_of_texts_knows_every_byte(tmp_path):
    path = write_table(tmp_path, ["stimulus_id,text", "a,x"])
    before = Texts(path).content_sha256()
    write_table(tmp_path, ["stimulus_id,text", "a,y"])
    assert Texts(path).content_sha256() != before


# As the rest of the program sees them


def test_sets_are_chosen_from_the_command_line(tmp_path, picture, wave):
    save(tmp_path, "a.png", picture)
    sf.write(tmp_path / "b.wav", wave, 8000)
    table = write_table(tmp_path, ["stimulus_id,text", "c,hello"])
    for words, kind, name in (
        (["stimuli=images", f"stimuli.path={tmp_path}"], "image", "a"),
        (["stimuli=sounds", f"stimuli.path={tmp_path}"], "audio", "b"),
        (["stimuli=texts", f"stimuli.path={table}", "stimuli.columns=[text]"], "text", "c"),
    ):
        stimuli = compose([*words, "dataset=simulated_eeg", "model=[fas]", "metric=[correlation]"]).stimuli
        assert type(stimuli) in STIMULI.values()
        shown = shown_by_kind(stimuli)
        assert set(shown) == {kind}
        one = shown[kind]()
        assert one.ids == (name,) and len(one.sha256) == 64 and one.get(0) is not None
        assert one.durations_s == ((1.0,) if kind == "audio" else ())


def test_the_content_decides_the_format_and_not_the_suffix(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(buffer, "PNG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(only(tmp_path), np.tile(np.uint8([1, 2, 3]), (2, 3, 1)))

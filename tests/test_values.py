"""What the values of another system's predictions mean: found, asked for, or refused."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from polyp_utils.apply.outputs import save_class_map
from polyp_utils.common.exceptions import DataError
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.labels import get_scheme
from polyp_utils.runs.predictions import of_arrays, of_folder
from polyp_utils.runs.values import parse_values
from polyp_utils.score.evaluation import evaluate

SIZE = (96, 80)  # width, height
FRAMES = 4


def draw(i):
    image = Image.new("L", SIZE)
    ImageDraw.Draw(image).ellipse([20 + i, 15, 55 + i, 50 + i], fill=255)
    return np.array(image)


TRUTH = {str(i): draw(i) for i in range(FRAMES)}


@pytest.fixture(scope="module")
def frames(tmp_path_factory, session_cache):
    """Frames of noise with an ellipse as polyp."""
    folder = tmp_path_factory.mktemp("theirs") / "ellipses"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i, mask in TRUTH.items():
        noise = np.random.default_rng(int(i)).integers(0, 255, (*mask.shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"images/{i}.png")
        Image.fromarray(mask).save(folder / f"masks/{i}.png")
    return PolypDataset(str(folder), 32)


def write(folder, to_image, suffix="png", **options):
    """Every mask as an image (or something else with ``save``) of its own."""
    folder.mkdir(exist_ok=True)
    for i, mask in TRUTH.items():
        to_image(mask).save(folder / f"{i}.{suffix}", **options)
    return folder


def dice(predictions, frames):
    return evaluate(predictions, frames, all_scores=False).polyp_dice.mean


def grey(mask):
    return Image.fromarray(mask)


def indices(mask):
    """1 is the inside, 2 the rim: a class map of scheme trimap."""
    return (mask > 0) + ((mask > 0) & ~ndimage.binary_erosion(mask > 0, iterations=2)).astype("u1")


def palette(*colours, classes=lambda mask: (mask > 0).astype(np.uint8)):
    def to_image(mask):
        image = Image.fromarray(classes(mask), "P")
        image.putpalette([0, 0, 0, *(level for colour in colours for level in colour)])
        return image

    return to_image


def rgb(mask, colour):
    return Image.fromarray((mask > 0)[..., None] * np.uint8(colour))


def with_alpha(mask, value=255):
    plain = Image.new("L", SIZE, value)
    return Image.merge("RGBA", [plain, plain, plain, grey(mask)])


def soft(mask):
    return np.rint(ndimage.gaussian_filter(mask.astype(float), 2)).astype(np.uint8)


WHITE, MAROON, RED, GREEN = (255, 255, 255), (128, 0, 0), (255, 0, 0), (0, 255, 0)
CERTAIN = {
    "masks": grey,
    "one bit": lambda m: grey(m).convert("1"),
    "0 and 1": lambda m: grey(m // 255),
    "0 and 153, P = 0.6": lambda m: grey((m * 0.6).astype(np.uint8)),
    "equal channels": lambda m: grey(m).convert("RGB"),
    "constant alpha": lambda m: Image.merge("LA", (grey(m), Image.new("L", SIZE, 255))),
    "alpha is the mask": with_alpha,
    "16 bits": lambda m: Image.fromarray(m.astype(np.uint16) * 257),
    "8 bits in 16": lambda m: Image.fromarray(m.astype(np.uint16)),
    "1 in 16 bits": lambda m: Image.fromarray((m > 0).astype(np.uint16)),
    "white palette": palette(WHITE),
    "palette of VOC": palette(MAROON),
    "green palette": palette(GREEN),
    "red": lambda m: rgb(m, RED),
}


@pytest.mark.parametrize("kind", CERTAIN)
def test_certain_values_get_the_score_that_they_deserve(tmp_path, frames, kind, recwarn):
    folder = write(tmp_path / "theirs", CERTAIN[kind])
    assert dice(of_folder(folder), frames) == 1
    assert not [w for w in recwarn if w.category is UserWarning]


def test_other_formats(tmp_path, frames):
    real = write(tmp_path / "tif", lambda m: Image.fromarray(np.float32(m / 255)), "tif")
    assert of_folder(real).values == "map:0-1"
    assert dice(of_folder(real), frames) == 1
    upper = write(tmp_path / "upper", grey, "PNG")
    assert dice(of_folder(upper), frames) == 1
    for name, convert in {"bool": lambda m: m > 0, "real": lambda m: m / 255}.items():
        (tmp_path / name).mkdir()
        for i, mask in TRUTH.items():
            np.save(tmp_path / name / f"{i}.npy", convert(mask))
        assert dice(of_folder(tmp_path / name), frames) == 1
    np.save(tmp_path / "bool/0.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"0\.npy is no NumPy array of numbers"):
        of_folder(tmp_path / "bool")


def test_jpeg_masks_are_read_and_soft_jpegs_only_on_request(tmp_path, frames):
    masks = of_folder(write(tmp_path / "masks", grey, "jpg", quality=75))
    assert masks.values == "above:127"
    assert dice(masks, frames) > 0.99
    assert set(np.unique(masks.read("0"))) == {0, 1}
    red = of_folder(
        write(tmp_path / "red", lambda m: rgb(m, RED), "jpg", quality=95, subsampling=0)
    )
    assert dice(red, frames) > 0.99
    maps = write(tmp_path / "maps", lambda m: grey(soft(m)), "jpg", quality=95)
    with pytest.raises(DataError, match=r"JPEG files hold soft levels, \d.*save them as PNG"):
        of_folder(maps)
    assert dice(of_folder(maps, values="map:0-255"), frames) > 0.9
    labels = write(tmp_path / "labels", lambda m: grey(indices(m)), "jpg")
    with pytest.raises(DataError, match="JPEG changes class indices"):
        of_folder(labels)
    with pytest.raises(DataError, match="is JPEG or WebP, which change indices"):
        of_folder(labels, values="indices:1,2").read("0")


UNCERTAIN = {  # to an image, what is seen and suggested, a way that gives all of the polyp
    "class indices": (lambda m: grey(indices(m)), "1 .* 2 .*indices:1,2 if both", "indices:1,2"),
    "0 and 2": (lambda m: grey(m // 255 * 2), "2 .*indices:2 if that", "indices:2"),
    "0 and 100": (lambda m: grey(m // 255 * 100), "100 .*indices:100", "map:0-100"),
    "per cent": (lambda m: grey(soft(m) // 4), "map:0-100 for per cent", "above:31"),
    "1 and 2": (lambda m: grey(m // 255 + 1), "1 .* 2 ", "indices:2"),
    "void of 255": (
        lambda m: grey(np.where(indices(m) == 2, 255, indices(m)).astype(np.uint8)),
        r"1 \(.* 255 \(",
        "above:0",
    ),
    "grey of VOC": (lambda m: palette(MAROON)(m).convert("L"), "38 .*indices:38", "indices:38"),
    "palette of three": (
        palette(RED, (0, 0, 255), classes=indices),
        r"palette indices 0 \(000000\), 1 \(ff0000\), 2 \(0000ff\).*indices:1,2",
        "indices:1,2",
    ),
    "two colours": (
        lambda m: Image.fromarray(np.array([(9, 9, 9), RED], np.uint8)[m // 255]),
        "the colours 090909 .* ff0000",
        "colours:ff0000",
    ),
    "half of 16 bits": (lambda m: Image.fromarray(np.uint16(m) * 4), "to 1020", "map:0-1020"),
}


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_uncertain_values_are_asked_for(tmp_path, frames, kind):
    to_image, seen, values = UNCERTAIN[kind]
    folder = write(tmp_path / "theirs", to_image)
    with pytest.raises(DataError, match=seen) as error:
        of_folder(folder)
    assert "--values" in str(error.value)
    assert str(folder / "0.png") in str(error.value)
    assert dice(of_folder(folder, values=values), frames) > 0.98


def test_class_maps_that_name_their_classes_need_no_question(tmp_path, frames):
    folder = tmp_path / "masks"
    folder.mkdir()
    for i, mask in TRUTH.items():
        save_class_map(folder / f"{i}.png", indices(mask), get_scheme("trimap"))
    found = of_folder(folder)
    assert found.values == "indices:1,2"
    assert "polyp and boundary are polyp" in found.notes[0]
    assert dice(found, frames) == 1
    unknown = PngInfo()
    unknown.add_text("classes", json.dumps({"0": "lumen", "1": "polyp"}))
    write(folder, palette(GREEN, RED, classes=indices), pnginfo=unknown)
    with pytest.raises(DataError, match=r"lumen.*is not certain"):
        of_folder(folder)


REFUSED = {
    "a picture": (lambda m: Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)),
                  "more than 16 colours"),
    "logits": (lambda m: Image.fromarray(np.float32(m / 32 - 4)), "take their sigmoid"),
    "not finite": (lambda m: Image.fromarray(np.where(m, np.nan, 0).astype("f4")), "not finite"),
    "black with alpha": (lambda m: with_alpha(m, 0), "another mask by its transparency"),
}  # fmt: skip


def test_a_prediction_with_an_orientation_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    write(tmp_path / "theirs", grey, exif=exif)
    with pytest.raises(DataError, match=r"0.png has EXIF orientation 3, .* turn its pixels"):
        of_folder(tmp_path / "theirs")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_mask_and_no_map_is_refused(tmp_path, kind):
    to_image, message = REFUSED[kind]
    write(tmp_path / "theirs", to_image, "tif" if "F" in to_image(TRUTH["0"]).mode else "png")
    with pytest.raises(DataError, match=message):
        of_folder(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (lambda m: grey(m // 255), grey),
        (grey, lambda m: Image.fromarray(m.astype(np.uint16) * 257)),
        (lambda m: rgb(m, RED), grey),
    ],
    ids=["0/1 among 0/255", "8 among 16 bits", "red among grey"],
)
def test_a_mixture_is_refused_with_an_example_of_each(tmp_path, first, others):
    folder = write(tmp_path / "theirs", others)
    first(TRUTH["0"]).save(folder / "0.png")
    with pytest.raises(DataError, match="differ in kind: ") as error:
        of_folder(folder)
    for name in ("0.png", "1.png"):
        assert str(folder / name) in str(error.value)


@pytest.mark.parametrize("others", [grey, lambda m: rgb(m, RED), lambda m: grey(soft(m))])
def test_black_frames_fit_everywhere(tmp_path, frames, others):
    folder = write(tmp_path / "theirs", others)
    Image.new("L", SIZE).save(folder / "0.png")
    assert dice(of_folder(folder), frames) == pytest.approx((FRAMES - 1) / FRAMES, abs=0.02)


def test_a_nearly_black_map_is_legal_and_said(tmp_path):
    folder = write(tmp_path / "theirs", lambda m: grey(soft(m)))
    Image.fromarray(TRUTH["0"] // 255).save(folder / "0.png")
    assert "1 files hold 0 and 1 alone and count as black" in of_folder(folder).notes[0]


DOUBTED = {
    "inverted": (lambda m: grey(255 - m), "that of the inverse would be 1.000.*map:255-0"),
    "black": (lambda m: grey(0 * m), "no pixel of any prediction is polyp: .*cast to integers"),
    "P cast to integers": (lambda m: grey((soft(m) / 255).astype(np.uint8)), "cast to integers"),
    "white": (lambda m: grey(0 * m + 255), "every pixel of every prediction is polyp"),
}


@pytest.mark.parametrize("kind", DOUBTED)
def test_a_folder_that_cannot_be_meant_so_is_doubted_aloud(tmp_path, frames, kind):
    to_image, message = DOUBTED[kind]
    predictions = of_folder(write(tmp_path / "theirs", to_image))
    with pytest.warns(UserWarning, match=message):
        found = evaluate(predictions, frames, all_scores=False)
    assert len(found.doubts) == 1
    again = of_folder(tmp_path / "theirs", values="map:255-0")
    if kind == "inverted":
        assert dice(again, frames) == 1


def test_sizes_are_said_and_exchanged_sides_refused(tmp_path, frames):
    def sized(name, *sizes):
        folder = tmp_path / name
        folder.mkdir()
        for (i, mask), size in zip(TRUTH.items(), sizes * FRAMES, strict=False):
            grey(mask).resize(size).save(folder / f"{i}.png")
        return evaluate(of_folder(folder), frames, all_scores=False)

    square = sized("square", (64, 64))
    assert square.polyp_dice.mean > 0.97
    assert "4 of 4 predictions are taken for maps at network size" in square.notes[-1]
    assert "first 0 (64×64 px, its frame 96×80)" in square.notes[-1]
    assert not square.doubts
    assert "4 of 4 predictions are scaled to their frames" in sized("half", (48, 40)).notes[-1]
    assert len(sized("rounded", (96, 81)).notes) == 2
    with pytest.warns(UserWarning, match="4 of 4 predictions differ .* in proportion, first 0"):
        sized("cropped alike", (96, 70))
    with pytest.warns(UserWarning, match="3 of 4 predictions differ .* in proportion, first 1"):
        sized("cropped", SIZE, (70, 80), (72, 80), (74, 80))
    with pytest.raises(DataError, match=r"4 of 4 .* exchanged, first 0 \(80×96 px, its frame 96×8"):
        sized("turned", SIZE[::-1])
    with pytest.raises(DataError, match="1 of 4 predictions have height and width exchanged"):
        sized("one turned", SIZE, SIZE, SIZE, SIZE[::-1])


ARRAYS = {
    "bool": (lambda m: m > 0, ""),
    "whole 0 and 1": (lambda m: (m > 0).astype(np.int64), ""),
    "uint8 0 and 1": (lambda m: m // 255, ""),
    "real 0 to 255": (lambda m: m.astype(np.float32), ""),
    "real": (lambda m: m / 255, ""),
    "rounded above 1": (lambda m: np.nextafter(np.float32(m / 255), np.float32(2)), ""),
    "indices": (indices, "is not certain"),
    "logits": (lambda m: m / 32 - 4, "take their sigmoid"),
    "nan": (lambda m: np.where(m > 0, np.nan, 0), "not finite"),
    "one channel": (lambda m: m[None], r"uint8 \(1, 80, 96\): give bool"),
    "strings": (lambda m: m.astype(str), "give bool"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_follow_the_same_rule(frames, kind):
    convert, message = ARRAYS[kind]
    arrays = {i: convert(mask) for i, mask in TRUTH.items()}
    if not message:
        assert dice(of_arrays(arrays), frames) == 1
        return
    with pytest.raises(DataError, match=message):
        of_arrays(arrays)


@pytest.mark.parametrize(
    "text",
    ["", "mask", "map", "map:1", "map:0-0", "map:a-b", "indices:", "indices:1;2", "colours:f"],
)
def test_a_meaning_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="give map:LOW-HIGH, above:N, indices:N,N or colours:RRG"):
        parse_values(text)


@pytest.mark.parametrize("text", ["map:0-255", "map:0.5-1", "above:127", "indices:1,2"])
def test_a_meaning_is_its_text(text):
    assert str(parse_values(text)) == text
    assert str(parse_values("colours:FF0000,00ff00")) == "colours:ff0000,00ff00"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("indices:3", "indices:3 occurs in none of 4 predictions: they hold 0, 255"),
        ("colours:ff0000", "colours:ff0000 occurs in none of 4 .* hold 000000, ffffff"),
        ("map:0-100", r"0\.png holds 0 to 255, outside of map:0-100"),
    ],
)
def test_a_meaning_that_does_not_fit_is_refused(tmp_path, values, message):
    folder = write(tmp_path / "theirs", grey)
    with pytest.raises(DataError, match=message):
        of_folder(folder, values=values).read("0")


def test_a_palette_of_greys_is_read_by_its_greys(tmp_path):
    for i, mask in TRUTH.items():
        image = Image.fromarray((mask == 0).astype(np.uint8), "P")
        image.putpalette([1, 1, 1, 0, 0, 0])
        image.save(tmp_path / f"{i}.png")
    found = of_folder(tmp_path, TRUTH)
    assert all((found.read(i)[1].numpy() == (mask > 0)).all() for i, mask in TRUTH.items())


def test_an_index_of_another_colour_per_file_is_refused(tmp_path):
    for i, mask in TRUTH.items():
        image = Image.fromarray((mask > 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, *[1 + int(i) % 2] * 3])  # of 0, 1, 2 what the file needs
        image.save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=r"index 1 is 010101 in .*0.png but 020202 in .*1.png"):
        of_folder(tmp_path, TRUTH, values="indices:1")
    found = of_folder(tmp_path, TRUTH, values="colours:010101,020202")
    assert (found.read("1")[1].numpy() == (TRUTH["1"] > 0)).all()

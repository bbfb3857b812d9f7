"""Phantoms: synthetic colonoscopy frames with exact ground truth.

A frame is a lit height field. The relief holds the lumen, the haustral folds and the polyps, each a
star-convex outline around a centre; a lamp beside the lens gives shading, fall-off and highlights;
the albedo holds mucosa, vessels, residue and the polyp's own tint. The mask is the polyp's outline
where the frame shows it: black corners and the overlay box are cut out of it, overlaid text is not
(annotators draw through it).

The unit of length is half the frame's short side, which spans -1 … 1. `grid` holds the position
x + iy of every pixel. Shapes: H, W of the frame. Fields are float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy  # loads its submodules on first use
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.float32]
Grid = NDArray[np.complex64]
Mask = NDArray[np.bool_]

POLYP_COUNTS = (0.05, 0.87, 0.08)  # share of frames with none, one, two
VERSION = 1  # of the drawing; raise it when pixels change, so that caches and runs notice
AREA_MEDIAN, AREA_SPREAD = 0.11, 0.95  # log-normal share of the frame; Kvasir-SEG: 2.5 … 11 … 41 %


class Scene(NamedTuple):
    """What the lens sees: relief (H, W), higher is nearer, and albedo (3, H, W)."""

    relief: Field
    albedo: Field


def draw_phantom(
    index: int, seed: int = 0, with_polyps: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one phantom; the same (index, seed) gives the same frame, whatever was drawn before.

    Args:
        index: Number of the frame, not negative.
        seed: Number of the data set, not negative.
        with_polyps: False leaves out the polyps and changes nothing else.

    Returns:
        Image (H, W, 3) RGB and mask (H, W) of 0 or 255; the short side has 240 … 299 pixels.
    """
    wall_rng, polyp_rng, camera_rng = np.random.default_rng([seed, index]).spawn(3)
    grid = _grid(camera_rng)
    margin = _margin(camera_rng, grid)
    scene = _wall(wall_rng, grid)
    lamp = complex(*camera_rng.normal(0, 0.5, 2))
    support = np.zeros(grid.shape, bool)
    if with_polyps:
        for _ in range(polyp_rng.choice(3, p=POLYP_COUNTS)):
            scene, support = _add_polyp(polyp_rng, grid, margin, lamp, scene, support)
    image = _photograph(camera_rng, grid, margin, lamp, scene)
    return image, np.where(support & (margin > 0), 255, 0).astype(np.uint8)


def _grid(rng: Generator) -> Grid:
    """Pixel positions of a frame of random size and aspect."""
    height = int(rng.integers(240, 300))
    width = int(min(height * rng.uniform(1.0, 1.3), 360))
    scale = min(height, width) / 2
    y, x = (np.arange(n, dtype=np.float32) / scale - n / scale / 2 for n in (height, width))
    return (x[None, :] + 1j * y[:, None]).astype(np.complex64)


def _noise(rng: Generator, grid: Grid, size: float) -> Field:
    """Smooth noise of mean 0 and variance 1 whose blobs are about `size` across."""

    def basis(axis: Field) -> Field:  # rows of unit norm keep the variance at 1 everywhere
        knots = np.arange(axis[0] - 2 * size, axis[-1] + 2 * size, size, dtype=np.float32)
        rows = np.exp(-(((axis[:, None] - knots) / np.float32(0.9 * size)) ** 2))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    rows, cols = basis(grid.imag[:, 0]), basis(grid.real[0])
    knots = rng.standard_normal((rows.shape[1], cols.shape[1]), np.float32)
    # einsum, not @: BLAS may round differently with another number of threads
    return np.einsum("yi,ix->yx", rows, np.einsum("ij,xj->ix", knots, cols))


def _grain(rng: Generator, grid: Grid, sigma_px: float) -> Field:
    """Fine noise of variance about 1, white before a blur of `sigma_px`."""
    white = rng.standard_normal(grid.shape, np.float32)
    return scipy.ndimage.gaussian_filter(white, sigma_px, truncate=2) * (
        2 * math.sqrt(math.pi) * sigma_px
    )


def _outline(rng: Generator, roughness: float) -> NDArray[np.complex64]:
    """Fourier coefficients of a log-radius; order 2 makes an ellipse, higher ones bumps."""
    orders = np.array([0.3, 1.0, 0.35, 0.2, 0.08, 0.05]) * roughness
    phases = np.exp(2j * np.pi * rng.random(orders.size))
    return (orders * rng.uniform(0.3, 1, orders.size) * phases).astype(np.complex64)


def _rho(grid: Grid, centre: complex, radius: float, outline: NDArray[np.complex64]) -> Field:
    """Distance from the centre in units of the outline's radius there: 1 on the outline."""
    offset = grid - np.complex64(centre)
    distance = np.abs(offset) + np.float32(1e-6)
    direction = offset * (1 / distance)
    log_radius = outline[-1] * direction
    for coefficient in outline[-2::-1]:  # Horner's scheme in e^{i·angle}
        log_radius += coefficient
        log_radius *= direction
    return distance / (np.float32(radius) * np.exp(log_radius.real))


def _wall(rng: Generator, grid: Grid) -> Scene:
    """Bowel wall without polyps: lumen and folds, the nearer fold hiding the farther one."""
    wall = 0.10 * _noise(rng, grid, 0.7) + 0.012 * _noise(rng, grid, 0.16)
    warped = grid + 0.06 * (_noise(rng, grid, 0.5) + 1j * _noise(rng, grid, 0.5))
    axis, radius = complex(*rng.uniform(-0.9, 0.9, 2)), rng.uniform(0.15, 0.45)
    relief = wall
    if rng.random() < 0.7:  # the lumen is in view
        rho = _rho(warped, axis, radius, _outline(rng, 0.3))
        relief = wall - rng.uniform(1.5, 5) / (1 + rho * rho * rho)
    for _ in range(rng.integers(1, 5)):
        radius *= rng.uniform(1.3, 2.1)
        axis += complex(*rng.normal(0, 0.3 * radius, 2))
        beyond = _rho(warped, axis, radius, _outline(rng, 0.35)) - 1
        height, depth = rng.uniform(0.03, 0.2), rng.uniform(0.3, 1.0)
        behind = np.minimum(beyond, 0)
        cliff = (height + depth) * np.exp(behind / rng.uniform(0.02, 0.1))
        cliff -= depth * (0.4 + 0.6 * np.exp(behind / 0.3))  # deepest just behind the edge
        ridge = height * np.exp(-((beyond / rng.uniform(0.15, 0.5)) ** 2))
        extent = np.clip(0.7 + _noise(rng, grid, 0.8), 0, 1)
        relief = np.where(beyond < 0, relief + extent * cliff, wall + extent * ridge)
    return Scene(relief.astype(np.float32), _mucosa(rng, grid))


def _mucosa(rng: Generator, grid: Grid) -> Field:
    """Albedo of the wall: patchy pink, vessels, yellow residue."""
    green = rng.uniform(0.30, 0.46)
    base = _per_channel(1, green, green * rng.uniform(0.45, 0.8))
    red = 0.12 * _noise(rng, grid, 0.5) + rng.uniform(0.02, 0.08) * _noise(rng, grid, 0.05)
    red += rng.choice([0, 0.4]).astype(np.float32) * np.clip(_noise(rng, grid, 0.3) - 0.8, 0, 1)
    vessels = rng.uniform(0.1, 1) * _vessels(rng, grid) * np.clip(_noise(rng, grid, 0.6) + 1, 0, 1)
    albedo = base * np.exp(
        -red * _per_channel(0.15, 0.9, 0.8) - vessels * _per_channel(0.3, 0.9, 0.7)
    )
    residue = _noise(rng, grid, 0.4) + 0.4 * _noise(rng, grid, 0.1)
    residue = rng.choice([0, 0.7]).astype(np.float32) * np.clip(residue - 1.2, 0, 1)
    return np.maximum(albedo + residue * _per_channel(-0.05, 0.12, -0.05), 0.02)


def _per_channel(red: float, green: float, blue: float) -> Field:
    """Weights (3, 1, 1) that spread a field (H, W) over the channels."""
    return np.array([red, green, blue], np.float32)[:, None, None]


def _vessels(rng: Generator, grid: Grid) -> Field:
    """Branching vessels, 0 … 1: random walks that fork into thinner ones."""
    height, width = grid.shape
    canvas = Image.new("L", (2 * width, 2 * height))
    pen = ImageDraw.Draw(canvas)
    stems = [
        (complex(*rng.uniform(0, [2 * width, 2 * height])), rng.uniform(0, 2 * np.pi), 4)
        for _ in range(rng.choice([0, 4, 10], p=[0.3, 0.4, 0.3]))
    ]
    while stems:
        start, heading, calibre = stems.pop()
        headings = heading + np.cumsum(rng.normal(0, 0.25, 6 + 5 * calibre))
        path = start + np.cumsum(9 * np.exp(1j * headings))
        pen.line(path.view(float).tolist(), fill=90 + 40 * calibre, width=calibre)
        if calibre > 1:
            forks = rng.integers(2, path.size, 2)
            turns = rng.uniform(-1, 1, 2)
            stems += [
                (path[i], headings[i] + t, calibre - 1) for i, t in zip(forks, turns, strict=True)
            ]
    return np.asarray(canvas.reduce(2), np.float32) / np.float32(255)


def _add_polyp(
    rng: Generator, grid: Grid, margin: Field, lamp: complex, scene: Scene, support: Mask
) -> tuple[Scene, Mask]:
    """Put one polyp on the wall; returns the new scene and the union of the supports."""
    area = 4 * grid.size / min(grid.shape) ** 2
    share = np.clip(AREA_MEDIAN * np.exp(AREA_SPREAD * rng.standard_normal()), 0.012, 0.55)
    radius = float(np.sqrt(share * area / np.pi))
    room = margin
    if support.any():  # a second polyp stays clear of the first
        radius = min(radius, 0.35)
        away = scipy.ndimage.distance_transform_edt(~support) * 2 / min(grid.shape)
        room = np.minimum(margin, away)
    wanted = radius * rng.choice([0.3, 1.1], p=[0.2, 0.8])
    centre = complex(rng.choice(grid[room >= min(wanted, 0.9 * room.max())]))
    size = 0.7 * radius
    warped = grid + 0.08 * radius * (_noise(rng, grid, size) + 1j * _noise(rng, grid, size))
    rho = _rho(warped, centre, radius, _outline(rng, rng.uniform(0.1, 0.4)))
    body = rho < 1
    contrast = rng.uniform(0.75, 1)

    lobes = 1 + 0.12 * _noise(rng, grid, 0.5 * radius)
    dome = np.maximum(1 - rho ** rng.uniform(1.5, 4), 0) ** rng.uniform(0.5, 1.3 - 0.5 * contrast)
    dome *= lobes * (radius * (0.15 + 0.45 * contrast))
    seat = np.quantile(scene.relief[body][::8], 0.8) + 0.1 * radius * contrast
    sunk = scene.relief + np.clip((1 - rho) / 0.3, 0, 1) * (seat - scene.relief)
    relief = np.where(body, np.maximum(sunk, seat) + dome, scene.relief)

    tint, redness = (contrast * rng.normal(mean, 0.08) for mean in (0.4, 0.3))
    pits = 0.04 * _grain(rng, grid, 1) + 0.12 * _noise(rng, grid, rng.uniform(0.035, 0.06))
    skin = scene.albedo[:, body].mean(1)[:, None, None] * np.exp(
        tint - (redness + rng.uniform(0.7, 1.4) * pits) * _per_channel(0.2, 1, 1.1)
    )
    cover = 0.4 + 0.6 * contrast
    away = (centre - lamp) / abs(centre - lamp)
    lee = 0.5 + 0.5 * ((grid - centre) * away.conjugate()).real / np.abs(grid - centre + 1e-6)
    shadow = 1 - 0.7 * contrast * lee * np.exp(-np.maximum(rho - 1, 0) / 0.15)
    coat = cover * skin + (1 - cover) * scene.albedo
    albedo = np.where(body, coat, scene.albedo * shadow)
    return Scene(relief.astype(np.float32), albedo.astype(np.float32)), support | body


def _photograph(
    rng: Generator, grid: Grid, margin: Field, lamp: complex, scene: Scene
) -> NDArray[np.uint8]:
    """Light the scene from beside the lens, expose it and add what the processor overlays."""
    lamp_height = rng.uniform(1.2, 2.0)
    to_lamp = np.complex64(lamp) - grid
    drop = np.maximum(lamp_height - scene.relief, 0.4)
    distance = np.sqrt(np.abs(to_lamp) ** 2 + drop**2)
    falloff = (lamp_height / distance) ** 2

    def facing(slope: Grid) -> Field:
        """Cosine of the angle between the surface normal and the direction of the lamp."""
        slope = slope / (1 + np.abs(slope) / 1.4)  # an outline is dark, never black
        cosine = (drop - (slope * to_lamp.conj()).real) / distance
        return np.maximum(cosine, 0) / np.sqrt(1 + np.abs(slope) ** 2)

    slope = _slope(scipy.ndimage.gaussian_filter(scene.relief, 1.3, truncate=2)) * np.float32(
        min(grid.shape) / 2
    )
    wet = np.clip(0.1 + 0.2 * _noise(rng, grid, 0.35), 0.02, 0.5)
    ripple = slope + wet * _slope(_grain(rng, grid, rng.uniform(1.2, 2.5)))
    light = rng.uniform(1.5, 3.5) * (0.12 + facing(slope)) * falloff
    gloss = np.clip((facing(ripple) - rng.uniform(0.985, 0.995)) * 200, 0, 1) * np.minimum(
        falloff, 1
    )
    sensor_noise = 0.02 * rng.standard_normal(grid.shape, np.float32)
    image = np.minimum(1 - np.exp(-light * scene.albedo) + gloss, 1) + sensor_noise
    sigma = rng.uniform(0.5, 1.0)
    image = scipy.ndimage.gaussian_filter(image, (0, sigma, sigma), truncate=2)
    image *= margin > 0
    frame = np.ascontiguousarray((np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))
    _overlay_text(rng, frame)
    return frame


def _slope(field: Field) -> Grid:
    """Gradient per pixel as x + iy."""
    along_y, along_x = np.gradient(field)
    return np.asarray(along_x + 1j * along_y, np.complex64)


def _overlay_text(rng: Generator, image: NDArray[np.uint8]) -> None:
    """Write lines of dot-matrix characters at the left edge, in place."""
    for line in range(rng.integers(0, 5)):
        dots = rng.random((5, rng.integers(4, 14), 4)) < 0.55
        dots[..., 3] = False
        top = int(image.shape[0] * 0.25) + line * rng.integers(8, 20)
        glyphs = dots.reshape(5, -1)
        image[top : top + 5, 2 : 2 + glyphs.shape[1]][glyphs] = 230


def _margin(rng: Generator, grid: Grid) -> Field:
    """How far inside the visible octagon and outside the overlay box a pixel lies."""
    x, y = np.abs(grid.real), np.abs(grid.imag)
    half_x, half_y = x.max(), y.max()
    margin = np.minimum(half_x - x, half_y - y) + 0.01
    cut = rng.uniform(0.3, 0.75)
    margin = np.minimum(margin, (half_x + half_y - cut - x - y) * 0.71)
    if rng.random() < 0.5:
        corner = complex(-half_x + rng.uniform(0.55, 0.8), half_y - rng.uniform(0.5, 0.8))
        margin = np.minimum(margin, np.maximum((grid - corner).real, -(grid - corner).imag))
    return margin.astype(np.float32)

"""Pen trajectories: structure, readers, transforms, batches, the stroke head, drawing."""

from mdnjax.strokes.animation import Animation as Animation
from mdnjax.strokes.augment import augment as augment
from mdnjax.strokes.baselines import LinearBaseline as LinearBaseline
from mdnjax.strokes.baselines import fit_autoregression as fit_autoregression
from mdnjax.strokes.baselines import fit_static as fit_static
from mdnjax.strokes.batches import WholeLines as WholeLines
from mdnjax.strokes.batches import Windows as Windows
from mdnjax.strokes.batches import bucket_lengths as bucket_lengths
from mdnjax.strokes.batches import gather_lines as gather_lines
from mdnjax.strokes.batches import line_batches as line_batches
from mdnjax.strokes.cleaning import CleaningReport as CleaningReport
from mdnjax.strokes.cleaning import clean as clean
from mdnjax.strokes.corpus import Corpus as Corpus
from mdnjax.strokes.formats import FORMATS as FORMATS
from mdnjax.strokes.formats import Format as Format
from mdnjax.strokes.formats import StrokeFormatError as StrokeFormatError
from mdnjax.strokes.formats import read as read
from mdnjax.strokes.formats import read_iam as read_iam
from mdnjax.strokes.formats import read_npz as read_npz
from mdnjax.strokes.formats import read_quickdraw as read_quickdraw
from mdnjax.strokes.formats import read_stroke3 as read_stroke3
from mdnjax.strokes.formats import read_svg as read_svg
from mdnjax.strokes.formats import read_unipen as read_unipen
from mdnjax.strokes.formats import recognise as recognise
from mdnjax.strokes.formats import write_npz as write_npz
from mdnjax.strokes.generate import generate as generate
from mdnjax.strokes.head import dequantize as dequantize
from mdnjax.strokes.head import next_step_pairs as next_step_pairs
from mdnjax.strokes.head import stroke_head as stroke_head
from mdnjax.strokes.likelihood import StrokeScores as StrokeScores
from mdnjax.strokes.likelihood import convolve as convolve
from mdnjax.strokes.likelihood import dequantize_corpus as dequantize_corpus
from mdnjax.strokes.likelihood import evaluate as evaluate
from mdnjax.strokes.likelihood import stroke_parts as stroke_parts
from mdnjax.strokes.normalize import Normalizer as Normalizer
from mdnjax.strokes.prime import Continuation as Continuation
from mdnjax.strokes.prime import continue_lines as continue_lines
from mdnjax.strokes.prime import match_scale as match_scale
from mdnjax.strokes.prime import prime as prime
from mdnjax.strokes.resample import resample_arc_length as resample_arc_length
from mdnjax.strokes.resample import resample_count as resample_count
from mdnjax.strokes.resample import resample_rate as resample_rate
from mdnjax.strokes.simplify import simplify as simplify
from mdnjax.strokes.splits import split_by as split_by
from mdnjax.strokes.streams import StreamBatch as StreamBatch
from mdnjax.strokes.streams import Streams as Streams
from mdnjax.strokes.structure import Strokes as Strokes
from mdnjax.strokes.svg import SvgOptions as SvgOptions
from mdnjax.strokes.svg import to_svg as to_svg
from mdnjax.strokes.svg import write_svg as write_svg
from mdnjax.strokes.transforms import to_offsets as to_offsets
from mdnjax.strokes.transforms import to_positions as to_positions

__all__ = [
    "FORMATS",
    "Animation",
    "CleaningReport",
    "Continuation",
    "Corpus",
    "Format",
    "LinearBaseline",
    "Normalizer",
    "StreamBatch",
    "Streams",
    "StrokeFormatError",
    "StrokeScores",
    "Strokes",
    "SvgOptions",
    "WholeLines",
    "Windows",
    "augment",
    "bucket_lengths",
    "clean",
    "continue_lines",
    "convolve",
    "dequantize",
    "dequantize_corpus",
    "evaluate",
    "fit_autoregression",
    "fit_static",
    "gather_lines",
    "generate",
    "line_batches",
    "match_scale",
    "next_step_pairs",
    "prime",
    "read",
    "read_iam",
    "read_npz",
    "read_quickdraw",
    "read_stroke3",
    "read_svg",
    "read_unipen",
    "recognise",
    "resample_arc_length",
    "resample_count",
    "resample_rate",
    "simplify",
    "split_by",
    "stroke_head",
    "stroke_parts",
    "to_offsets",
    "to_positions",
    "to_svg",
    "write_npz",
    "write_svg",
]

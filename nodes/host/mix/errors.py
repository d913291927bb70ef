"""What is wrong with a mix, in a form that the page can say in its own language."""

from __future__ import annotations

from ....qrlora_core import UNREADABLE, QRLoRAError

# The English texts of ``web/texts/en.json`` by their keys there.
TEXTS = {
    "mixer.error_body": "expected at most {most} bytes, found more.",
    "mixer.error_bytes": "mix: expected text in UTF-8, found something else at byte {at}.",
    "mixer.error_field": "mix, row {row}: {field} is not known; a row has {known}.",
    "mixer.error_file": "mix, row {row}, file: expected the name of an adapter file, found {found}.",
    "mixer.error_flag": "mix{place}, {field}: expected true or false, found {found}.",
    "mixer.error_json": "mix: not JSON at line {line}, column {column}: {reason}.",
    "mixer.error_long": "mix: expected at most {most} characters, found {found}.",
    "mixer.error_missing": "Files that are not there, of rows that are on: {rows}. Choose others, or switch these off.",
    "mixer.error_no_file": "{file}: no such adapter file that can be read. It was moved, renamed or deleted.",
    "mixer.error_number": "mix, row {row}, {field}: expected a number from {least} to {most}, found {found}.",
    "mixer.error_object": "mix{place}: expected a JSON object, found {found}.",
    "mixer.error_picture_damaged": "picture: what it tells of its workflow cannot be read: {reason}.",
    "mixer.error_picture_linked": "picture: the mix of its QR-LoRA Mixer comes from another node, not from a "
    "text, so that no mix is there.",
    "mixer.error_picture_mix": "picture: its workflow has no QR-LoRA Mixer with a mix.",
    "mixer.error_picture_without": "picture: it does not tell the workflow that it was made with.",
    "mixer.error_recipe": "recipe: expected a JSON object with qr_lora_recipe, name and mix, or a picture as "
    "PNG, JPEG or WebP, found {found}.",
    "mixer.error_recipe_bytes": "recipe: expected JSON in UTF-8, or a picture as PNG, JPEG or WebP, found "
    "something else at byte {at}.",
    "mixer.error_recipe_choice": "recipe, {field}: expected one of {known}, found {found}.",
    "mixer.error_recipe_field": "recipe: {field} is not known; a recipe has {known}.",
    "mixer.error_recipe_name": "recipe, name: expected a name that a file can have, found {found}.",
    "mixer.error_recipe_number": "recipe, settings, {field}: expected a number from {least} to {most}, found {found}.",
    "mixer.error_recipe_setting": "recipe, settings: {field} is not known; mode {mode} has {known}.",
    "mixer.error_recipe_settings": "recipe, settings: expected a JSON object, found {found}.",
    "mixer.error_recipe_text": "recipe, {field}: expected text of at most {most} characters, found {found}.",
    "mixer.error_recipe_version": "recipe, qr_lora_recipe: expected {expected}, found {found}. A newer pack "
    "may have written it.",
    "mixer.error_row": "mix, row {row} ({file}): {reason}",
    "mixer.error_rows": "mix, rows: expected a list of at most {most} rows, found {found}.",
    "mixer.error_several": "{reasons}",
    "mixer.error_sha256": "mix, row {row}, sha256: expected 64 hexadecimal digits, found {found}.",
    "mixer.error_size": "mix, row {row}, size: expected a number of bytes, found {found}.",
    "mixer.error_text": "mix, row {row}, {field}: expected text of at most {most} characters, found {found}.",
    "mixer.error_top": "mix: {field} is not known; a mix has {known}.",
    "mixer.error_twice": "mix: {field} stands twice in one object.",
    "mixer.error_version": "mix, version: expected {expected}, found {found}. A newer pack may have written it.",
}
_LONGEST, _LONGEST_NAME = 80, 300


class MixError(QRLoRAError):
    """A mix or recipe that cannot be read, or of which a row cannot be loaded.

    Args:
        key: of the message, see `TEXTS`. values: what stands in its braces.
    """

    def __init__(self, key: str, **values: object) -> None:
        self.key, self.values = key, {name: str(value) for name, value in values.items()}
        super().__init__(TEXTS[key].format(**self.values))


def shown(found: object) -> str:
    """What was found instead, short."""
    try:
        text = repr(found)
    except RecursionError:  # nested as deep as JSON may be, and now from deeper within
        text = type(found).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def named(file: str) -> str:
    """The name of a file as far as it can be shown."""
    plain = UNREADABLE.sub("", file)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[:_LONGEST_NAME]}…"

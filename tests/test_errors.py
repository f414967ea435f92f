"""What is shown of texts from elsewhere."""

from il2m.errors import printable


def test_what_could_steer_a_terminal_or_a_page_is_written_out():
    assert printable("\x1b[31mred\x07 \u202egnp.exe \ud800") == "\\x1b[31mred\\x07 \\u202egnp.exe \\ud800"
    kept = "two lines\nÄ 中文 می\u200cخواهم 👩\u200d🔬 a\xa0b <b>"
    assert printable(kept) == kept

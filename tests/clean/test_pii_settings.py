"""Settings of the filter for personal data that are refused before rows are read."""

import pytest

from sft_cli.clean import pii
from sft_cli.clean.pii_national import NATIONAL
from sft_cli.config.schema.clean import PiiConfig
from sft_cli.errors import Mistakes, SftError
from sft_cli.utils import optional_deps

MISTAKES = [
    pytest.param(
        {"kinds": ["emial"]},
        "clean.pii.kinds: unknown name 'emial'\n  fix: did you mean email? choose from secret, email, iban, card, ip, "
        + ", ".join(NATIONAL)
        + ", phone",
        id="kind",
    ),
    pytest.param(
        {"roles": ["human"]},
        "clean.pii.roles: unknown name 'human'\n  fix: choose from system, user, assistant, tool",
        id="role",
    ),
    pytest.param(
        {"phone_regions": ["de"]},
        "clean.pii.phone_regions: unknown name 'de'\n  fix: did you mean DE? write country codes such as US, DE, GB",
        id="region-in-small-letters",
    ),
    pytest.param(
        {"phone_regions": ["UK"]},
        "clean.pii.phone_regions: unknown name 'UK'\n  fix: write country codes such as US, DE, GB",
        id="region",
    ),
    pytest.param(
        {"roles": []},
        "clean.pii.roles: the list is empty, so the filter would find nothing\n"
        "  fix: choose from system, user, assistant, tool",
        id="no-roles",
    ),
]


@pytest.mark.parametrize(("config", "message"), MISTAKES)
def test_invalid_settings_are_refused_before_reading_rows(config, message):
    with pytest.raises(SftError) as error:
        pii.find_pii(None, PiiConfig(**config))  # pyright: ignore[reportArgumentType]
    assert str(error.value) == message


def test_all_unknown_names_are_reported():
    with pytest.raises(Mistakes) as error:
        pii.check_pii(PiiConfig(kinds=["id_uk", "phone"], roles=["bot"]))
    assert [one.problem for one in error.value.errors] == ["unknown name 'id_uk'", "unknown name 'bot'"]


@pytest.mark.parametrize(
    ("kinds", "package"), [(["phone"], "phonenumbers"), (["iban"], "python-stdnum"), (["id_us"], "python-stdnum")]
)
def test_missing_library_is_refused(kinds, package, monkeypatch):
    monkeypatch.setattr(optional_deps, "find_spec", lambda name: None)
    with pytest.raises(SftError) as error:
        pii.check_pii(PiiConfig(kinds=kinds))
    assert str(error.value) == (
        f"clean.steps: the step pii needs {package}, which is not installed\n  fix: pip install 'sft-cli[clean]'"
    )
    pii.check_pii(PiiConfig(kinds=["email", "ip", "secret"]))

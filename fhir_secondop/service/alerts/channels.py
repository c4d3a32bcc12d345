"""The two ways out: an e-mail, or a signed webhook."""

from __future__ import annotations

from typing import Any

from fhir_secondop.alert_settings import Alerts
from fhir_secondop.ehr import mail, webhook
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Invalid
from fhir_secondop.service.alerts import messages
from fhir_secondop.store.alerts import Message


class Gone(EhrFailure):
    """Nobody is at this channel any more: it was taken out of the settings."""

    def __init__(self, channel: str) -> None:
        super().__init__("policy", f"{channel}: it is not in the settings any more.")


def all_of(settings: Alerts) -> list[str]:
    """Every channel of every level, each once, in their order."""
    found = [channel for level in settings.levels for channel in messages.channels_of(level)]
    return list(dict.fromkeys(found))


def send(settings: Alerts, message: Message, now: int) -> None:
    """Sends it. Raises EhrFailure where it did not arrive, or where that is not known; Gone where there is no way."""
    way, _, name = message.channel.partition(":")
    if way == "webhook" and name in settings.webhooks:
        webhook.post(settings.webhooks[name], message.id, message.body, now)
    elif way == "email" and settings.email is not None:
        data = message.body["data"]
        mail.send(
            settings.email, name, message.id, data["subject"], f"{data['text']}\n\n{data['link']}\n", message.made
        )
    else:
        raise Gone(message.channel)


def tried(settings: Alerts, link: str, now: int) -> list[dict[str, Any]]:
    """Sends a test by every channel, and says of each whether it arrived, and else why not."""
    found = []
    for channel in all_of(settings):
        why = ""
        try:
            send(settings, messages.test(channel, link, now), now)
        except (EhrFailure, Invalid) as failure:
            why = failure.message
        found.append({"channel": channel, "ok": not why, "why": why})
    return found

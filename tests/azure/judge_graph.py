"""Microsoft's own client of Graph against the fake that our tests stand on.

Usage: judge_graph.py FAKE (the program of crates/testkit/examples/fake_graph.rs)
"""

import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
import time

import httpx
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_authentication_azure.azure_identity_authentication_provider import AzureIdentityAuthenticationProvider
from msgraph import GraphRequestAdapter, GraphServiceClient
from msgraph.generated.devices.delta.delta_request_builder import DeltaRequestBuilder
from msgraph.generated.devices.devices_request_builder import DevicesRequestBuilder
from msgraph.generated.devices.item.check_member_groups.check_member_groups_post_request_body import (
    CheckMemberGroupsPostRequestBody,
)
from msgraph.generated.devices_with_device_id.devices_with_device_id_request_builder import (
    DevicesWithDeviceIdRequestBuilder,
)
from msgraph.generated.models.o_data_errors.o_data_error import ODataError
from msgraph_core import GraphClientFactory

from tokens import Tokens

FIRST, SECOND, NOBODY, GROUP, OTHER = (f"{digit * 8}-2222-4333-8444-555555555555" for digit in "abcde")
# What the server selects, crates/azure/src/graph.rs.
SELECT = ["deviceId", "displayName", "accountEnabled", "trustType", "alternativeSecurityIds", "operatingSystem"]


async def raises(status, code, call):
    try:
        await call
    except ODataError as error:
        found = (error.response_status_code, error.error.code if error.error else None)
        assert found == (status, code), found
        assert error.error.message and error.error.inner_error is not None
        return
    raise AssertionError(f"{status} was expected")


def connect(url, ca, scope):
    tokens = Tokens()
    http = httpx.AsyncClient(verify=ssl.create_default_context(cafile=ca), base_url=f"{url}/v1.0", timeout=30)
    provider = AzureIdentityAuthenticationProvider(tokens, scopes=[scope], allowed_hosts=["127.0.0.1"])
    adapter = GraphRequestAdapter(provider, GraphClientFactory.create_with_default_middleware(client=http))
    adapter.base_url = f"{url}/v1.0"
    return GraphServiceClient(request_adapter=adapter), tokens


def listing(**parameters):
    query = DevicesRequestBuilder.DevicesRequestBuilderGetQueryParameters(**parameters)
    return RequestConfiguration(query_parameters=query)


def by_id(client, device, top=2, select=SELECT):
    return client.devices.get(listing(filter=f"deviceId eq '{device}'", select=select, top=top))


async def judge_devices(client, tokens, url, tell):
    tell(f"add {FIRST} LAB-07 {GROUP}")
    tell(f"add {SECOND} it's")
    found = (await by_id(client, FIRST)).value
    assert tokens.scopes == {f"{url}/.default"}, tokens.scopes
    [device] = found
    # GUIDs may come in capitals.
    assert device.device_id.lower() == FIRST and device.device_id != device.device_id.lower()
    assert (device.display_name, device.account_enabled) == ("LAB-07", True)
    assert (device.trust_type, device.operating_system) == ("AzureAd", "Windows")
    [key] = device.alternative_security_ids
    assert (key.type, key.key) == (2, b"keyturn"), (key.type, key.key)
    # What is not selected is not there.
    [device] = (await by_id(client, FIRST.upper(), select=["deviceId"])).value
    assert device.id is None and device.display_name is None and not device.alternative_security_ids

    found = await client.devices.get(listing(filter="displayName eq 'it''s'", select=SELECT, top=32))
    assert [one.device_id.lower() for one in found.value] == [SECOND]
    assert found.odata_next_link is None
    # Nobody is an empty list and no error; of several one sees as many as were asked for.
    assert (await by_id(client, NOBODY)).value == []
    tell("duplicate")
    assert len((await by_id(client, FIRST)).value) == 2
    assert len((await by_id(client, FIRST, top=1)).value) == 1
    tell("single")
    assert len((await by_id(client, FIRST)).value) == 1
    await raises(400, "Request_UnsupportedQuery", by_id(client, "a'b"))
    await raises(400, "Request_UnsupportedQuery", by_id(client, FIRST, top=1000))

    # By its address, where nobody is an error.
    query = DevicesWithDeviceIdRequestBuilder.DevicesWithDeviceIdRequestBuilderGetQueryParameters(select=SELECT)
    alone = RequestConfiguration(query_parameters=query)
    assert (await client.devices_with_device_id(FIRST).get(alone)).display_name == "LAB-07"
    await raises(404, "Request_ResourceNotFound", client.devices_with_device_id(NOBODY).get(alone))


async def judge_groups(client, url, tell):
    whole = await client.devices_with_device_id(FIRST).get()
    assert whole.id and whole.id.lower() != FIRST, "an object's id is another than its device's"
    asked = CheckMemberGroupsPostRequestBody(group_ids=[OTHER, GROUP])
    by_object = client.devices.by_device_id(whole.id).check_member_groups
    # As the server asks, by the device's id.
    address = f"{url}/v1.0/devices(deviceId='{FIRST}')/checkMemberGroups"
    for builder in [by_object, by_object.with_url(address)]:
        told = await builder.post(asked)
        assert [one.lower() for one in told.value] == [GROUP], told.value
        many = CheckMemberGroupsPostRequestBody(group_ids=[GROUP] * 21)
        await raises(400, "Request_BadRequest", builder.post(many))
    nobody = by_object.with_url(address.replace(FIRST, NOBODY))
    await raises(404, "Request_ResourceNotFound", nobody.post(asked))


async def judge_feed(client, tell):
    tell("pages 1")
    select = DeltaRequestBuilder.DeltaRequestBuilderGetQueryParameters(select=["deviceId", "displayName"])
    begin = lambda: client.devices.delta.get(RequestConfiguration(query_parameters=select))

    async def whole(page):
        objects, pages = list(page.value), 1
        while page.odata_next_link:
            assert page.odata_delta_link is None
            page = await client.devices.delta.with_url(page.odata_next_link).get()
            objects, pages = objects + page.value, pages + 1
        assert page.odata_delta_link
        return objects, pages, page.odata_delta_link

    objects, pages, link = await whole(await begin())
    assert sorted(one.display_name for one in objects) == ["LAB-07", "it's"] and pages == 2
    again = lambda link: client.devices.delta.with_url(link).get()
    nothing, _, link = await whole(await again(link))
    assert nothing == []

    # Of a change its object's id and what changed, of a deletion the id and a mark; the first link still holds.
    ids = {one.display_name: one.id for one in objects}
    tell("rename LAB-07 LAB-08")
    tell("delete it's")
    changes, _, later = await whole(await again(link))
    changed = {one.id: one for one in changes}
    assert changed.keys() == set(ids.values())
    assert changed[ids["LAB-07"]].display_name == "LAB-08" and changed[ids["LAB-07"]].device_id is None
    assert changed[ids["it's"]].additional_data["@removed"] == {"reason": "deleted"}
    assert "@removed" not in changed[ids["LAB-07"]].additional_data
    assert len((await whole(await again(link)))[0]) == 2
    assert (await whole(await again(later)))[0] == []

    # A page may tell again what the one before told.
    tell(f"add {SECOND} LAB-09")
    tell(f"add {NOBODY} LAB-10")
    tell("pages 2")
    tell("replays")
    objects, pages, _ = await whole(await begin())
    assert len(objects) == 4 and len({one.id for one in objects}) == 3 and pages == 2

    await raises(400, "BadRequest", again(link.replace("deltatoken", "deltatokem")))
    await raises(400, "BadRequest", again(link.replace("token=", "token=x")))
    tell("expire")
    await raises(410, "syncStateNotFound", again(later))
    tell("feed-next 429 1")
    before = time.monotonic()
    await begin()
    assert time.monotonic() - before >= 1


async def judge_refusals(client, url, ca, tell):
    calls = lambda: json.loads(tell("calls"))[0]
    # The client obeys Retry-After, and waits of its own accord without it.
    for fault, least in [("429 2", 2), ("429", 0.5), ("503 1", 1), ("504", 0.5)]:
        before, made = time.monotonic(), calls()
        tell(f"next {fault}")
        assert len((await by_id(client, FIRST)).value) == 1
        assert time.monotonic() - before >= least and calls() == made + 2, fault
    # What is not throttling is not tried again.
    for status in [403, 500]:
        made = calls()
        tell(f"next {status}")
        await raises(status, "Fault", by_id(client, FIRST))
        assert calls() == made + 1
    # A token for something else.
    made = calls()
    strange, _ = connect(url, ca, "https://vault.azure.net/.default")
    await raises(401, "InvalidAuthenticationToken", by_id(strange, FIRST))
    # None at all, since this host is not one that the client gives tokens to.
    http = httpx.AsyncClient(verify=ssl.create_default_context(cafile=ca), base_url=f"{url}/v1.0")
    provider = AzureIdentityAuthenticationProvider(Tokens(), allowed_hosts=["graph.microsoft.com"])
    adapter = GraphRequestAdapter(provider, GraphClientFactory.create_with_default_middleware(client=http))
    adapter.base_url = f"{url}/v1.0"
    await raises(401, "InvalidAuthenticationToken", by_id(GraphServiceClient(request_adapter=adapter), FIRST))
    assert calls() == made, "without a token nobody is asked"


async def judge(url, ca, tell):
    client, tokens = connect(url, ca, f"{url}/.default")
    await judge_devices(client, tokens, url, tell)
    await judge_groups(client, url, tell)
    await judge_refusals(client, url, ca, tell)
    await judge_feed(client, tell)
    print("Microsoft's client of Graph finds the fake to be one")


def main():
    with tempfile.NamedTemporaryFile(suffix=".pem") as ca:
        fake = subprocess.Popen([sys.argv[1], ca.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            url = fake.stdout.readline().strip()

            def tell(command):
                fake.stdin.write(command + "\n")
                fake.stdin.flush()
                answer = fake.stdout.readline().strip()
                assert answer == "done" or command == "calls", (command, answer)
                return answer

            asyncio.run(judge(url, ca.name, tell))
        finally:
            fake.stdin.close()
            fake.wait(10)


main()

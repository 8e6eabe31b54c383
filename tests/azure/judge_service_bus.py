"""Microsoft's own client of Service Bus against the fake that our tests stand on.

Usage: judge_service_bus.py FAKE (crates/testkit/src/service_bus.js; NODE_PATH leads to rhea)
"""

import concurrent.futures
import datetime
import json
import os
import subprocess
import sys
import time

from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

# Ahead of the real clock by what the tests add, so that the client takes no lock for lost by itself.
START = int(time.time() * 1000)


class Fake:
    """The fake in a process of its own, with a clock that stands where it is put."""

    def __init__(self, script):
        queues = {
            "plain": {"lockMs": 30_000, "maxDelivery": 3},
            "dedup": {"dedupMs": 60_000},
            "sessions": {"lockMs": 30_000, "sessions": True},
        }
        settings = {"keyName": "root", "key": "SAS_KEY_VALUE", "queues": queues}
        environment = dict(os.environ, KEYTURN_SERVICE_BUS=json.dumps(settings))
        self.process = subprocess.Popen(
            ["node", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.port = json.loads(self.process.stdout.readline())["port"]

    def tell(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def client(fake, key="SAS_KEY_VALUE"):
    return ServiceBusClient.from_connection_string(
        f"Endpoint=sb://127.0.0.1:{fake.port};SharedAccessKeyName=root;SharedAccessKey={key};"
        "UseDevelopmentEmulator=true;",
        retry_total=0,
    )


def one(receiver):
    messages = receiver.receive_messages(1, max_wait_time=5)
    assert len(messages) == 1, messages
    return messages[0]


def none(receiver):
    assert receiver.receive_messages(1, max_wait_time=1) == []


def judge(fake):
    with client(fake) as bus:
        plain(fake, bus)
        duplicates(bus)
        scheduled(fake, bus)
        sessions(bus)
        next_sessions(fake, bus)
        trouble(fake, bus)
    for right, refused in [("Listen", "sender"), ("Send", "receiver")]:
        fake.tell(rights=[right])
        with client(fake) as bus:
            send = lambda: bus.get_queue_sender("plain").send_messages(ServiceBusMessage("x"))
            receive = lambda: bus.get_queue_receiver("plain").receive_messages(1, max_wait_time=1)
            may, may_not = (receive, send) if refused == "sender" else (send, receive)
            raises(ServiceBusAuthorizationError, may_not)
            may()
    fake.tell(rights=["Listen", "Send"])
    with client(fake, "wrong") as bus:
        raises(ServiceBusAuthenticationError, lambda: bus.get_queue_sender("plain").send_messages(ServiceBusMessage("x")))


def plain(fake, bus):
    sender, receiver = bus.get_queue_sender("plain"), bus.get_queue_receiver("plain")
    sender.send_messages(ServiceBusMessage(b"one", message_id="a", application_properties={"k": "v"}))
    peeked = receiver.peek_messages(5)
    assert [str(message) for message in peeked] == ["one"], peeked
    message = one(receiver)
    assert message.delivery_count == 0 and message.application_properties == {b"k": b"v"}, message
    before = message.locked_until_utc
    receiver.renew_message_lock(message)
    assert message.locked_until_utc >= before
    receiver.abandon_message(message)
    message = one(receiver)
    assert message.delivery_count == 1, message.delivery_count
    receiver.dead_letter_message(message, reason="poison", error_description="bad")
    dead = bus.get_queue_receiver("plain", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    message = one(dead)
    told = (message.dead_letter_reason, message.dead_letter_error_description, message.dead_letter_source)
    assert told == ("poison", "bad", "plain"), told
    dead.complete_message(message)

    # A message that nobody settles dies by itself.
    sender.send_messages(ServiceBusMessage("stubborn"))
    for count in range(3):
        message = one(receiver)
        assert message.delivery_count == count
        receiver.abandon_message(message)
    none(receiver)
    message = one(dead)
    assert message.dead_letter_reason == "MaxDeliveryCountExceeded", message.dead_letter_reason
    dead.complete_message(message)

    sender.send_messages([ServiceBusMessage(f"batch {number}") for number in range(50)])
    done = set()
    while len(done) < 50:
        for message in receiver.receive_messages(20, max_wait_time=5):
            receiver.complete_message(message)
            done.add(str(message))
    assert done == {f"batch {number}" for number in range(50)}

    # Its link may still have credit, and would get what is meant for the next.
    receiver.close()
    eager = bus.get_queue_receiver("plain", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    sender.send_messages(ServiceBusMessage("gone"))
    assert str(one(eager)) == "gone" and eager.peek_messages(1) == []
    eager.close()
    receiver = bus.get_queue_receiver("plain")

    sender.send_messages(ServiceBusMessage("deferred"))
    receiver.defer_message(one(receiver))
    none(receiver)
    for receiver in (dead, receiver, sender):
        receiver.close()


def duplicates(bus):
    sender, receiver = bus.get_queue_sender("dedup"), bus.get_queue_receiver("dedup")
    for text in ("first", "second"):
        sender.send_messages(ServiceBusMessage(text, message_id="same"))
    message = one(receiver)
    assert str(message) == "first"
    receiver.complete_message(message)
    none(receiver)
    receiver.close()
    sender.close()


def scheduled(fake, bus):
    sender, receiver = bus.get_queue_sender("dedup"), bus.get_queue_receiver("dedup")
    fake.tell(clock=START)
    at = datetime.datetime.fromtimestamp(START / 1000 + 60, datetime.timezone.utc)
    numbers = sender.schedule_messages([ServiceBusMessage("later"), ServiceBusMessage("never")], at)
    sender.cancel_scheduled_messages(numbers[1])
    raises(MessageNotFoundError, lambda: sender.cancel_scheduled_messages(numbers[1]))
    none(receiver)
    fake.tell(clock=START + 60_000)
    message = one(receiver)
    assert str(message) == "later"
    # Asked past the client's own look at its clock, which is another one.
    fake.tell(clock=START + 120_000)
    raises(MessageLockLostError, lambda: receiver._settle_message_via_mgmt_link([message.lock_token], "completed"))
    message = one(receiver)
    assert message.delivery_count == 1, (str(message), message.delivery_count)
    receiver.complete_message(message)
    fake.tell(clock=None)


def sessions(bus):
    sender = bus.get_queue_sender("sessions")
    raises(ServiceBusError, lambda: sender.send_messages(ServiceBusMessage("none")))
    sender = bus.get_queue_sender("sessions")
    for session in ("a", "b", "a"):
        sender.send_messages(ServiceBusMessage(session, session_id=session))
    first = bus.get_queue_receiver("sessions", session_id="a")
    assert [str(one(first)), str(one(first))] == ["a", "a"]
    first.session.renew_lock()
    none(first)
    raises(ServiceBusError, lambda: one(bus.get_queue_receiver("sessions", session_id="a")))
    first.close()
    again = bus.get_queue_receiver("sessions", session_id="a")
    message = one(again)
    assert message.delivery_count == 1, message.delivery_count
    again.complete_message(message)
    again.close()


def next_sessions(fake, bus):
    """What the adapter relies on: the next session that is free, waiting for one, and losing one."""
    sender = bus.get_queue_sender("sessions")
    accept = lambda wait=5: bus.get_queue_receiver("sessions", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=wait)
    # Session b has a message from before.
    first = accept()
    message = one(first)
    assert (first.session.session_id, str(message)) == ("b", "b")
    # And session a the second one that was never settled.
    second = accept()
    second.complete_message(one(second))
    assert second.session.session_id == "a"
    second.close()
    raises(OperationTimeoutError, lambda: accept(1).receive_messages(1))
    raises(SessionCannotBeLockedError, lambda: one(bus.get_queue_receiver("sessions", session_id="b")))

    # Of two sessions two receivers have one each, in the order in which messages came.
    for number in range(3):
        for session in ("c", "d"):
            sender.send_messages(ServiceBusMessage(f"{session}{number}", session_id=session))
    second, third = accept(), accept()
    assert [str(one(second)), str(one(third))] == ["c0", "d0"]
    assert [str(one(second)), str(one(third))] == ["c1", "d1"]
    assert (second.session.session_id, third.session.session_id) == ("c", "d")

    # One that waits gets the session that is given back.
    waiting = accept(20)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        got = pool.submit(lambda: one(waiting))
        time.sleep(1)
        assert not got.done()
        third.close()
        message = got.result(20)
    assert (str(message), message.delivery_count) == ("d0", 1), str(message)
    waiting.complete_message(message)
    waiting.dead_letter_message(one(waiting), reason="poison")
    waiting.close()

    # Dead letters of a queue with sessions are read without one; who is not in a session gets nothing else.
    dead = bus.get_queue_receiver("sessions", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    message = one(dead)
    assert (str(message), message.dead_letter_reason) == ("d1", "poison")
    dead.complete_message(message)
    dead.close()
    raises(ServiceBusError, lambda: one(bus.get_queue_receiver("sessions")))
    raises(ServiceBusError, lambda: one(bus.get_queue_receiver("plain", session_id="x")))

    # A lock that ran out takes the messages of the session along.
    fake.tell(clock=int(time.time() * 1000))
    message = one(first_again := bus.get_queue_receiver("sessions", session_id="d"))
    fake.tell(clock=int(time.time() * 1000) + 120_000)
    raises(SessionLockLostError, lambda: first_again._settle_message_via_mgmt_link([message.lock_token], "completed"))
    fake.tell(clock=None)
    for receiver in (first, second, first_again):
        receiver.close()


def trouble(fake, bus):
    sender = bus.get_queue_sender("plain")
    fake.tell(fault={"op": "send", "how": "busy"})
    error = raises(ServiceBusError, lambda: sender.send_messages(ServiceBusMessage("busy")))
    assert "server-busy" in str(error).lower() or "ServerBusy" in type(error).__name__, repr(error)
    raises(ServiceBusError, lambda: bus.get_queue_sender("nowhere").send_messages(ServiceBusMessage("x")))


fake = Fake(sys.argv[1])
try:
    judge(fake)
finally:
    fake.stop()
print("Microsoft's client of Service Bus finds the fake to be one")

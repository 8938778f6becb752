// Tests of the listener: who may come in, who is sent away and in which words.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <string_view>

#include "channel/listener.h"
#include "channel_fixture.h"

namespace {

using namespace fixture;  // NOLINT

struct Listening {
  explicit Listening(Endpoint endpoint, int identify_timeout_ms = 60'000) {
    auto started = Listener::start({std::move(endpoint), identify_timeout_ms}, wakeup);
    CHECK_OK(started);
    listener = std::move(*started);
  }
  TestWakeup wakeup;
  std::unique_ptr<Listener> listener;

  [[nodiscard]] Endpoint address(const std::string& host = "127.0.0.1") const {
    auto endpoint = Endpoint::tcp(host, listener->port());
    CHECK_OK(endpoint);
    return *endpoint;
  }
  // At least `count` connections, in the order in which they were identified.
  std::vector<Accepted> take(size_t count) {
    std::vector<Accepted> all;
    while (all.size() < count) {
      wakeup.expect(*listener, EventKind::kAccepted);
      for (Accepted& accepted : listener->take_accepted()) all.push_back(std::move(accepted));
    }
    CHECK_EQ(all.size(), count);
    return all;
  }
  Error failure() {
    wakeup.expect(*listener, EventKind::kFailed);
    const Error error = *listener->error();
    wakeup.expect(*listener, EventKind::kClosed);
    return error;
  }
};

Endpoint any_port(const char* host = "127.0.0.1") {
  auto endpoint = Endpoint::tcp(host, 0);
  CHECK_OK(endpoint);
  return *endpoint;
}

UniqueFd dial(const Endpoint& to) {
  auto fd = connect_to(to, 60'000, -1);  // poll(2) ignores a negative fd
  CHECK_OK(fd);
  return std::move(*fd);
}

void say(const UniqueFd& fd, std::string_view bytes) {
  CHECK_EQ(send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
           static_cast<ssize_t>(bytes.size()));
}

std::string introduction(uint8_t channel_id) {
  std::array<uint8_t, kInitialPacketSize> bytes;
  InitialPacket packet;
  packet.uuid.fill(0xAB);
  packet.channel_id = channel_id;
  fill_initial_packet(bytes, packet);
  return {bytes.begin(), bytes.end()};
}

bool says(const Error& error, const char* part) {
  return std::strstr(error.detail, part) != nullptr;
}

TEST("main and multifd channels are told apart; the main channel's bytes are still there") {
  const CensusCheck before;
  {
    Listening listening(any_port());
    const UniqueFd main = dial(listening.address());
    const UniqueFd channel = dial(listening.address());
    say(main, std::string("QEVM\0\0\0\3", 8));
    const auto first = listening.take(1);
    CHECK(first[0].is_main);
    std::array<char, 8> seen{};
    CHECK_EQ(recv(first[0].fd.get(), seen.data(), seen.size(), MSG_DONTWAIT), 8);
    CHECK_EQ(std::string_view(seen.data(), 4), "QEVM");
    say(channel, introduction(9));
    const auto second = listening.take(1);
    CHECK(!second[0].is_main);
    CHECK_EQ(unsigned{second[0].initial.channel_id}, 9U);
    CHECK_EQ(unsigned{second[0].initial.uuid[15]}, 0xABU);
    CHECK(second[0].peer.starts_with("127.0.0.1:"));
  }
  before.expect_unchanged();
}

TEST("an introduction may come byte by byte") {
  for (const bool unix_socket : {false, true}) {
    std::array<char, 32> directory{"multifd-test-XXXXXX"};
    CHECK(mkdtemp(directory.data()) != nullptr);
    auto path = Endpoint::unix_path(std::string(directory.data()) + "/socket");
    CHECK_OK(path);
    {
      Listening listening(unix_socket ? *path : any_port());
      const UniqueFd channel = dial(unix_socket ? *path : listening.address());
      for (const char byte : introduction(3)) say(channel, {&byte, 1});
      CHECK_EQ(unsigned{listening.take(1)[0].initial.channel_id}, 3U);
    }
    rmdir(directory.data());
  }
}

TEST("a UNIX socket's path is gone with its listener") {
  const CensusCheck before;
  std::array<char, 32> directory{"multifd-test-XXXXXX"};
  CHECK(mkdtemp(directory.data()) != nullptr);
  const std::string path = std::string(directory.data()) + "/socket";
  auto endpoint = Endpoint::unix_path(path);
  CHECK_OK(endpoint);
  struct stat status {};
  {
    Listening listening(*endpoint);
    CHECK_EQ(stat(path.c_str(), &status), 0);
    const UniqueFd main = dial(*endpoint);
    say(main, "QEVM");
    CHECK(listening.take(1)[0].is_main);
  }
  CHECK(stat(path.c_str(), &status) != 0);
  rmdir(directory.data());
  before.expect_unchanged();
}

TEST("an IPv6 address is listened on") {
  auto endpoint = Endpoint::tcp("::1", 0);
  CHECK_OK(endpoint);
  uint16_t port = 0;
  if (!listen_on(*endpoint, port)) SKIP("this machine has no IPv6 loopback");
  Listening listening(*endpoint);
  const UniqueFd main = dial(listening.address("::1"));
  say(main, "QEVM");
  CHECK(listening.take(1)[0].peer.starts_with("[::1]:"));
}

TEST("a connection within this machine is not paced") {
  const PlainListener listener;
  const UniqueFd plain(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), Resource::kSocket);
  if (::setsockopt(plain.get(), IPPROTO_TCP, TCP_CONGESTION, "reno", 4) < 0) {
    SKIP("this user may not choose reno (net.ipv4.tcp_allowed_congestion_control)");
  }
  const UniqueFd never(::eventfd(0, EFD_CLOEXEC), Resource::kEventFd);
  const auto connected = connect_to(listener.endpoint(), 1000, never.get());
  CHECK_OK(connected);
  std::array<char, 16> name{};
  socklen_t size = name.size();
  CHECK_EQ(::getsockopt(connected->get(), IPPROTO_TCP, TCP_CONGESTION, name.data(), &size), 0);
  CHECK(std::string_view(name.data()) == "reno");
}

TEST("a connection that says nothing is given up after its time") {
  Listening listening(any_port(), 20);
  const UniqueFd silent = dial(listening.address());
  const Error error = listening.failure();
  CHECK(error.code == ErrorCode::kTimeout);
  CHECK(says(error, "20 ms"));
}

TEST("a connection that stops in the middle of its introduction is given up too") {
  Listening listening(any_port(), 20);
  const UniqueFd slow = dial(listening.address());
  say(slow, introduction(1).substr(0, 40));
  CHECK(listening.failure().code == ErrorCode::kTimeout);
}

TEST("an HTTP request is quoted in the error") {
  Listening listening(any_port());
  const UniqueFd stranger = dial(listening.address());
  say(stranger, "GET / HTTP/1.1\r\n\r\n");
  const Error error = listening.failure();
  CHECK(error.code == ErrorCode::kHandshake);
  CHECK(says(error, "47 45 54 20"));
  CHECK(says(error, "GET "));
}

TEST("three bytes and an end are an error that quotes them") {
  Listening listening(any_port());
  UniqueFd stranger = dial(listening.address());
  say(stranger, "QEV");
  stranger.reset();
  const Error error = listening.failure();
  CHECK(error.code == ErrorCode::kHandshake);
  CHECK(says(error, "51 45 56"));
}

TEST("a connection that closes without a byte is an error") {
  Listening listening(any_port());
  dial(listening.address()).reset();
  const Error error = listening.failure();
  CHECK(error.code == ErrorCode::kHandshake);
  CHECK(says(error, "closed"));
}

TEST("an introduction that ends early, or of another version, is an error") {
  {
    Listening listening(any_port());
    UniqueFd channel = dial(listening.address());
    say(channel, introduction(1).substr(0, 63));
    channel.reset();
    const Error error = listening.failure();
    CHECK(error.code == ErrorCode::kHandshake);
    CHECK(says(error, "63 bytes"));
  }
  Listening listening(any_port());
  const UniqueFd channel = dial(listening.address());
  std::string bytes = introduction(1);
  bytes[7] = 2;
  say(channel, bytes);
  CHECK(listening.failure().code == ErrorCode::kHandshake);
}

TEST("256 connections at once are all taken, whatever the order of their introductions") {
  const CensusCheck before;
  {
    Listening listening(any_port());
    std::vector<UniqueFd> connections;
    for (int i = 0; i < 256; ++i) connections.push_back(dial(listening.address()));
    for (size_t i = 255; i > 0; --i) say(connections[i], introduction(static_cast<uint8_t>(i - 1)));
    say(connections[0], "QEVM");
    std::array<bool, 256> seen{};
    for (const Accepted& accepted : listening.take(256)) {
      const size_t id = accepted.is_main ? 255 : accepted.initial.channel_id;
      CHECK(!seen[id]);
      seen[id] = true;
    }
  }
  before.expect_unchanged();
}

TEST("an address that is in use is refused, in a sentence that names it") {
  Listening listening(any_port());
  TestWakeup wakeup;
  const auto second = Listener::start({listening.address(), 1000}, wakeup);
  CHECK(!second);
  CHECK_EQ(second.error().errno_value, EADDRINUSE);
  CHECK(says(second.error(), listening.address().text.c_str()));
}

TEST("addresses that are no addresses are refused") {
  CHECK(!Endpoint::tcp("localhost", 1));
  CHECK(!Endpoint::tcp("", 1));
  CHECK(!Endpoint::tcp("1.2.3.4.5", 1));
  CHECK(!Endpoint::unix_path(""));
  CHECK(!Endpoint::unix_path(std::string(108, 'x')));
  CHECK_OK(Endpoint::unix_path(std::string(107, 'x')));
}

}  // namespace

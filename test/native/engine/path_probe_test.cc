// Tests of the probe of one interface. What the loopback answers is the kernel's own rule; other
// interfaces belong to the machine, so they are tried in a network namespace made for the test.
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "base/census.h"
#include "base/unique_fd.h"
#include "check.h"
#include "engine/path_probe.h"

namespace {

using multifd::PathProbe;
using multifd::PathVerdict;
using multifd::probe_path;
using multifd::Resource;
using multifd::UniqueFd;

// What is sent before the kernel has activated the queue of a device is dropped, which looks as if
// it had not been copied.
constexpr const char* kIsUp =
    " && for try in $(seq 1000); do"
    "   ip link show mfd0 | grep -q 'state UP' && exit; sleep 0.01;"
    " done; exit 1";

// Runs `body` on a thread in a network namespace of its own, with `setup` done by sh and ip(8)
// first. $PEER is a second namespace, for the far end of a pair.
template <typename Body>
void in_own_network(const std::string& setup, Body body) {
  if (::geteuid() != 0) SKIP("a network namespace needs root");
  std::string missing;
  std::thread thread([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      missing = "no network namespace is to be had here";
      return;
    }
    const UniqueFd peer(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC),
                        Resource::kBackingFd);
    const std::string path =
        "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(peer.get());
    const std::string script = "exec 2>/dev/null; PEER=" + path + "; " + setup;
    if (::unshare(CLONE_NEWNET) != 0 || std::system(script.c_str()) != 0) {
      missing = "this kernel or ip(8) refused: " + setup;
      return;
    }
    body();
  });
  thread.join();
  if (!missing.empty()) SKIP(missing);
}

}  // namespace

TEST("what goes out on the loopback is copied") {
  const auto sockets = multifd::census(Resource::kSocket).load();
  const auto mappings = multifd::census(Resource::kMapping).load();
  const PathProbe probe = probe_path("lo");
  CHECK_EQ(std::string(probe.reason), "");
  CHECK(probe.verdict == PathVerdict::kCopied);
  CHECK_EQ(probe.payload_bytes, 16384U);
  CHECK_EQ(multifd::census(Resource::kSocket).load(), sockets);
  CHECK_EQ(multifd::census(Resource::kMapping).load(), mappings);
}

TEST("an interface that is not there, or has a name no interface can have, is refused") {
  for (const char* const name : {"nowhere0", "", "a-name-longer-than-any-interface"}) {
    const PathProbe probe = probe_path(name);
    CHECK(probe.verdict == PathVerdict::kRefused);
    CHECK(std::string(probe.reason).find("there is no interface") == 0);
  }
}

TEST("a loopback that is down is refused") {
  PathProbe probe;
  in_own_network("true", [&] { probe = probe_path("lo"); });
  CHECK(probe.verdict == PathVerdict::kRefused);
  CHECK_EQ(std::string(probe.reason), "lo is down");
}

TEST("an interface that takes no multicast is not tried") {
  PathProbe probe;
  in_own_network("ip link add mfd0 type veth peer name mfd1 && ip link set mfd0 multicast off up",
                 [&] { probe = probe_path("mfd0"); });
  CHECK(probe.verdict == PathVerdict::kRefused);
  CHECK(std::string(probe.reason).find("takes no multicast") != std::string::npos);
}

TEST("a plain veth pair copies, over IPv4 and over IPv6 alone") {
  for (const char* const address : {"ip addr add 192.0.2.1/24 dev mfd0 && ", ""}) {
    PathProbe probe;
    const std::string setup =
        std::string("ip link add mfd0 mtu 9000 type veth peer name mfd1 mtu 9000 && "
                    "ip link set mfd1 netns $PEER && "
                    "nsenter --net=$PEER ip link set mfd1 up && ") +
        address + "echo 0 > /proc/sys/net/ipv6/conf/mfd0/accept_dad && ip link set mfd0 up" + kIsUp;
    in_own_network(setup, [&] { probe = probe_path("mfd0"); });
    CHECK_EQ(std::string(probe.reason), "");
    CHECK(probe.verdict == PathVerdict::kCopied);
    CHECK_EQ(probe.payload_bytes, 9000U - 48U);
  }
}

TEST("an interface that takes the pages themselves does not copy") {
  PathProbe probe;
  in_own_network("ip link add mfd0 type dummy && ip addr add 192.0.2.1/24 dev mfd0 && "
                 "ip link set mfd0 up",
                 [&] { probe = probe_path("mfd0"); });
  CHECK_EQ(std::string(probe.reason), "");
  CHECK(probe.verdict == PathVerdict::kNotCopied);
}

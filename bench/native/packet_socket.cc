// Holds an AF_PACKET socket on one network device until standard input ends, as tcpdump would. It
// never reads from it: that it is there is what makes the kernel copy every zero-copy send that
// leaves through the device.
//
//   packet_socket DEVICE   prints {"event":"ready"}, waits for the end of standard input
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: packet_socket DEVICE\n");
    return 2;
  }
  const unsigned device = ::if_nametoindex(argv[1]);
  if (device == 0) {
    std::fprintf(stderr, "there is no network device %s\n", argv[1]);
    return 1;
  }
  const int socket = ::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));
  sockaddr_ll address;
  std::memset(&address, 0, sizeof address);
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(device);
  if (socket < 0 ||
      ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    std::fprintf(stderr, "opening a packet socket on %s failed (%s): it needs CAP_NET_RAW\n",
                 argv[1], std::strerror(errno));
    return 1;
  }
  std::puts("{\"event\":\"ready\"}");
  std::fflush(stdout);
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;
}

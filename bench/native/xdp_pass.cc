// Attaches an XDP program that passes every packet to one network device, in native mode, and holds
// it until standard input ends. A veth with such a program moves each packet into pages of its own,
// as a NIC's DMA would, and releases the sender's: zero-copy sends then really are not copied. The
// program is two instructions, so no compiler for BPF is needed. It knows nothing of who sends.
//
//   xdp_pass DEVICE        prints {"event":"ready"}, waits for the end of standard input, detaches
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

// linux/bpf.h of kernel 5.18: the program accepts packets in several buffers (MTU 9000).
#ifndef BPF_F_XDP_HAS_FRAGS
#define BPF_F_XDP_HAS_FRAGS (1U << 5)
#endif

namespace {

int bpf(bpf_cmd command, bpf_attr* attributes) {
  return static_cast<int>(::syscall(SYS_bpf, command, attributes, sizeof *attributes));
}

int load_pass_program() {
  const bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0,
       .imm = XDP_PASS},
      {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
  };
  bpf_attr attributes;
  std::memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_XDP;
  attributes.insns = reinterpret_cast<uint64_t>(program);
  attributes.insn_cnt = sizeof program / sizeof program[0];
  attributes.license = reinterpret_cast<uint64_t>("Apache-2.0");
  attributes.prog_flags = BPF_F_XDP_HAS_FRAGS;
  return bpf(BPF_PROG_LOAD, &attributes);
}

int attach(int program, unsigned device) {
  bpf_attr attributes;
  std::memset(&attributes, 0, sizeof attributes);
  attributes.link_create.prog_fd = static_cast<uint32_t>(program);
  attributes.link_create.target_ifindex = device;
  attributes.link_create.attach_type = BPF_XDP;
  attributes.link_create.flags = XDP_FLAGS_DRV_MODE;
  return bpf(BPF_LINK_CREATE, &attributes);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: xdp_pass DEVICE\n");
    return 2;
  }
  const unsigned device = ::if_nametoindex(argv[1]);
  if (device == 0) {
    std::fprintf(stderr, "there is no network device %s\n", argv[1]);
    return 1;
  }
  const int program = load_pass_program();
  if (program < 0) {
    std::fprintf(stderr, "loading an XDP program failed (%s): it needs CAP_BPF, CAP_NET_ADMIN and "
                 "a kernel with CONFIG_BPF_SYSCALL\n", std::strerror(errno));
    return 1;
  }
  if (attach(program, device) < 0) {
    std::fprintf(stderr, "attaching the XDP program to %s failed (%s): it needs a kernel whose "
                 "driver of this device runs XDP itself\n", argv[1], std::strerror(errno));
    return 1;
  }
  std::puts("{\"event\":\"ready\"}");
  std::fflush(stdout);
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  return 0;  // the link goes with its last descriptor
}

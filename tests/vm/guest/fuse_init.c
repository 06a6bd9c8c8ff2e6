// SPDX-License-Identifier: Apache-2.0
// What the kernel says in the first request of a FUSE connection: "fuse=7.MINOR resend=yes|no passthrough=yes|no".
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

int main(void) {
  struct {
    uint32_t length, opcode;
    uint64_t unique, node;
    uint32_t uid, gid, pid, padding;
    uint32_t major, minor, readahead, flags, flags2, unused[11 + 16384];
  } static request;
  char options[64];
  int device = open("/dev/fuse", O_RDWR);
  mkdir("/tmp/fuse-init", 0700);
  snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", device);
  if (device < 0 || mount("init", "/tmp/fuse-init", "fuse", 0, options) != 0) return perror("fuse"), 1;
  if (read(device, &request, sizeof request) < 0) return perror("init"), 1;
  umount2("/tmp/fuse-init", MNT_DETACH);
  const int more = request.flags >> 30 & 1;  // FUSE_INIT_EXT: flags2 means something
  printf("fuse=%u.%u resend=%s passthrough=%s\n", request.major, request.minor,
         more && request.flags2 >> (39 - 32) & 1 ? "yes" : "no", more && request.flags2 >> (37 - 32) & 1 ? "yes" : "no");
  return 0;
}

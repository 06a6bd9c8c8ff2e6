// SPDX-License-Identifier: Apache-2.0
// Plays the kernel's side of FUSE over a socketpair, with one message per request and per reply, as
// on /dev/fuse. The operations can thus be tested without a mount and without root. Not
// thread-safe.
#pragma once

#include <linux/fuse.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"

namespace imagefs {

class FakeKernel {
 public:
  FakeKernel();

  // The daemon's end. Call once.
  Fd TakeDevice() { return std::move(device_); }
  // Ends the session like an unmount.
  void Close() { socket_.Reset(); }

  struct Reply {
    uint64_t unique = 0;
    int error = 0;  // errno; ETIMEDOUT if there was no reply
    std::string body;

    // The body as a protocol structure, filled up with zeros if it is too short.
    template <typename T>
    T As() const {
      T out = {};
      memcpy(&out, body.data(), body.size() < sizeof(T) ? body.size() : sizeof(T));
      return out;
    }
  };

  // Sends a request and waits for its reply.
  Reply Call(uint32_t opcode, uint64_t node, std::string_view payload = {});
  uint64_t Send(uint32_t opcode, uint64_t node, std::string_view payload = {});
  Reply Receive();
  // Sends an arbitrary message; does not wait for a reply.
  void SendRaw(std::string_view message);

  // The handshake, offering everything that a recent kernel supports.
  Reply Init();

  Reply Lookup(uint64_t node, std::string_view name);
  Reply GetAttr(uint64_t node);
  Reply ReadFile(uint64_t node, uint64_t offset, uint32_t size);
  Reply GetXattr(uint64_t node, std::string_view name, uint32_t size);
  Reply ListXattr(uint64_t node, uint32_t size);

  struct Entry {
    std::string name;
    uint64_t ino = 0, next = 0;
    uint32_t type = 0;
    fuse_entry_out attributes = {};  // readdirplus only
  };
  // One request; empty at the end of the directory.
  std::vector<Entry> ReadDir(uint64_t node, uint64_t position, uint32_t size, bool plus);
  // All entries, from the start.
  std::vector<Entry> ReadWholeDir(uint64_t node, uint32_t size, bool plus);

 private:
  Fd socket_;
  Fd device_;
  uint64_t next_unique_ = 2;
  std::unique_ptr<char[]> buffer_;
};

// The bytes of a protocol structure.
template <typename T>
std::string BytesOf(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace imagefs

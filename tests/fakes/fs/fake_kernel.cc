// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/fs/fake_kernel.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <utility>

#include "gtest/gtest.h"

namespace imagefs {
namespace {

constexpr size_t kBufferBytes = size_t{2} << 20;

std::string WithNul(std::string_view text) { return std::string(text) + '\0'; }

fuse_in_header Header(uint32_t opcode, uint64_t unique, uint64_t node, size_t payload) {
  fuse_in_header header = {};
  header.len = static_cast<uint32_t>(sizeof(header) + payload);
  header.opcode = opcode;
  header.unique = unique;
  header.nodeid = node;
  return header;
}

}  // namespace

FakeKernel::FakeKernel() : buffer_(std::make_unique<char[]>(kBufferBytes)) {
  int ends[2] = {-1, -1};
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  socket_ = Fd(ends[0]);
  device_ = Fd(ends[1]);
  const timeval patience = {30, 0};
  setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
}

uint64_t FakeKernel::Send(uint32_t opcode, uint64_t node, std::string_view payload) {
  const uint64_t unique = next_unique_;
  next_unique_ += 2;  // like the kernel: odd numbers are interrupts
  SendRaw(BytesOf(Header(opcode, unique, node, payload.size())) + std::string(payload));
  return unique;
}

void FakeKernel::SendRaw(std::string_view message) {
  EXPECT_EQ(send(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(message.size()));
}

FakeKernel::Reply FakeKernel::Receive() {
  Reply reply;
  const ssize_t got = recv(socket_.get(), buffer_.get(), kBufferBytes, 0);
  fuse_out_header header = {};
  if (got < static_cast<ssize_t>(sizeof(header))) {
    ADD_FAILURE() << "no reply: " << strerror(errno);
    reply.error = ETIMEDOUT;
    return reply;
  }
  memcpy(&header, buffer_.get(), sizeof(header));
  EXPECT_EQ(header.len, static_cast<uint32_t>(got));
  reply.unique = header.unique;
  reply.error = -header.error;
  reply.body.assign(buffer_.get() + sizeof(header), got - sizeof(header));
  return reply;
}

FakeKernel::Reply FakeKernel::Call(uint32_t opcode, uint64_t node, std::string_view payload) {
  const uint64_t unique = Send(opcode, node, payload);
  Reply reply = Receive();
  EXPECT_EQ(reply.unique, unique);
  return reply;
}

FakeKernel::Reply FakeKernel::Init() {
  fuse_init_in in = {};
  in.major = FUSE_KERNEL_VERSION;
  in.minor = FUSE_KERNEL_MINOR_VERSION;
  in.max_readahead = 128 << 10;
  in.flags = ~static_cast<uint32_t>(FUSE_INIT_RESERVED);
  return Call(FUSE_INIT, 0, BytesOf(in));
}

FakeKernel::Reply FakeKernel::Lookup(uint64_t node, std::string_view name) {
  return Call(FUSE_LOOKUP, node, WithNul(name));
}

FakeKernel::Reply FakeKernel::GetAttr(uint64_t node) {
  return Call(FUSE_GETATTR, node, BytesOf(fuse_getattr_in{}));
}

FakeKernel::Reply FakeKernel::ReadFile(uint64_t node, uint64_t offset, uint32_t size) {
  fuse_read_in in = {};
  in.offset = offset;
  in.size = size;
  return Call(FUSE_READ, node, BytesOf(in));
}

FakeKernel::Reply FakeKernel::GetXattr(uint64_t node, std::string_view name, uint32_t size) {
  fuse_getxattr_in in = {};
  in.size = size;
  return Call(FUSE_GETXATTR, node, BytesOf(in) + WithNul(name));
}

FakeKernel::Reply FakeKernel::ListXattr(uint64_t node, uint32_t size) {
  fuse_getxattr_in in = {};
  in.size = size;
  return Call(FUSE_LISTXATTR, node, BytesOf(in));
}

std::vector<FakeKernel::Entry> FakeKernel::ReadDir(uint64_t node, uint64_t position, uint32_t size,
                                                   bool plus) {
  fuse_read_in in = {};
  in.offset = position;
  in.size = size;
  const Reply reply = Call(plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, BytesOf(in));
  EXPECT_EQ(reply.error, 0);
  EXPECT_LE(reply.body.size(), size);
  std::vector<Entry> out;
  const size_t skipped = plus ? sizeof(fuse_entry_out) : 0;
  for (size_t at = 0; at + skipped + FUSE_NAME_OFFSET <= reply.body.size();) {
    Entry entry;
    if (plus) memcpy(&entry.attributes, reply.body.data() + at, sizeof(entry.attributes));
    fuse_dirent dirent = {};
    memcpy(&dirent, reply.body.data() + at + skipped, FUSE_NAME_OFFSET);
    entry.name = reply.body.substr(at + skipped + FUSE_NAME_OFFSET, dirent.namelen);
    entry.ino = dirent.ino;
    entry.next = dirent.off;
    entry.type = dirent.type;
    out.push_back(std::move(entry));
    at += FUSE_DIRENT_ALIGN(skipped + FUSE_NAME_OFFSET + dirent.namelen);
  }
  return out;
}

std::vector<FakeKernel::Entry> FakeKernel::ReadWholeDir(uint64_t node, uint32_t size, bool plus) {
  std::vector<Entry> out;
  uint64_t position = 0;
  while (true) {
    std::vector<Entry> part = ReadDir(node, position, size, plus);
    if (part.empty()) return out;
    position = part.back().next;
    for (Entry& entry : part) out.push_back(std::move(entry));
    if (out.size() > 1'000'000) {
      ADD_FAILURE() << "the directory has no end";
      return out;
    }
  }
}

}  // namespace imagefs

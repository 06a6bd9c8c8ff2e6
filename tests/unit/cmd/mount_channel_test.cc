// SPDX-License-Identifier: Apache-2.0
#include "cmd/mount_channel.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>

#include "base/pass_fd.h"
#include "fs/mount_record.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

// The command's end of a new channel, and the id that the daemon sent on it.
struct Channel {
  Fd end;
  std::string id;
};

constexpr size_t kMessageBytes = 1024;
constexpr size_t kTextOffset = 20;

Channel OpenChannel(MountChannels& channels) {
  int ends[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
  Channel channel{Fd(ends[0]), ""};
  channels.Accept(Fd(ends[1]));
  char message[kMessageBytes] = {};
  int fd = -1;
  EXPECT_EQ(ReceiveWithFd(channel.end.get(), message, sizeof(message), &fd),
            static_cast<ssize_t>(sizeof(message)));
  EXPECT_EQ(fd, -1);
  channel.id = message + kTextOffset;
  return channel;
}

void Answer(const Channel& channel, uint32_t kind, uint32_t code, const char* text, int fd = -1) {
  char message[kMessageBytes] = {};
  memcpy(message, &kind, sizeof(kind));
  memcpy(message + 4, &code, sizeof(code));
  strncpy(message + kTextOffset, text, kMessageBytes - kTextOffset - 1);
  ASSERT_EQ(SendWithFd(channel.end.get(), message, sizeof(message), fd),
            static_cast<ssize_t>(sizeof(message)));
}

constexpr uint32_t kDone = 4, kFailed = 5;

TEST(MountChannelTest, AChannelIsTakenOnceByItsId) {
  MountChannels channels;
  const Channel one = OpenChannel(channels), two = OpenChannel(channels);
  EXPECT_EQ(one.id.size(), 32U);
  EXPECT_NE(one.id, two.id);
  EXPECT_TRUE(channels.Take(one.id).ok());
  EXPECT_TRUE(absl::IsUnavailable(channels.Take(one.id).status()));
  EXPECT_TRUE(absl::IsUnavailable(channels.Take("").status()));
  EXPECT_TRUE(channels.Take(two.id).ok());
}

TEST(MountChannelTest, TheChannelOfACommandThatHasGoneIsClosed) {
  MountChannels channels;
  std::string gone;
  {
    const Channel channel = OpenChannel(channels);
    gone = channel.id;
  }
  const Channel next = OpenChannel(channels);
  EXPECT_TRUE(absl::IsUnavailable(channels.Take(gone).status()));
}

TEST(MountChannelTest, ACommandMayCallAsSoonAsItHasItsId) {
  MountChannels channels;
  for (int i = 0; i < 200; ++i) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    const Fd end(ends[0]);
    std::thread daemon([&channels, other = ends[1]] { channels.Accept(Fd(other)); });
    char message[kMessageBytes] = {};
    while (read(end.get(), message, sizeof(message)) < 0) {
    }
    EXPECT_TRUE(channels.Take(message + kTextOffset).ok());
    daemon.join();
  }
}

TEST(MountChannelTest, TheMountIsHandedOverAndTheAnswerReturned) {
  MountChannels channels;
  const Channel channel = OpenChannel(channels);
  const auto caller = channels.Take(channel.id);
  ASSERT_TRUE(caller.ok());
  const Fd mount(open("/", O_PATH | O_CLOEXEC));
  Answer(channel, kDone, 0, "");
  EXPECT_TRUE((*caller)->Attach(mount).ok());
  char message[kMessageBytes] = {};
  int fd = -1;
  ASSERT_GT(ReceiveWithFd(channel.end.get(), message, sizeof(message), &fd), 0);
  EXPECT_TRUE(Fd(fd).valid());
  Answer(channel, kFailed, static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition),
         "/mnt is busy\n\x1b[31m");
  const absl::Status refused = (*caller)->Attach(mount);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_EQ(std::string(refused.message()).find('\x1b'), std::string::npos);
}

TEST(MountChannelTest, NothingThatACommandSendsIsBelieved) {
  MountChannels channels;
  const Channel channel = OpenChannel(channels);
  const auto caller = channels.Take(channel.id);
  ASSERT_TRUE(caller.ok());
  // Another descriptor than one of /dev/fuse, and none.
  const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  Answer(channel, kDone, 0, "", null.get());
  EXPECT_TRUE(
      absl::IsInvalidArgument((*caller)->MakeFuse("source", {}, FuseAccess::kUser).status()));
  Answer(channel, kDone, 0, "");
  EXPECT_TRUE(
      absl::IsInvalidArgument((*caller)->MakeFuse("source", {}, FuseAccess::kUser).status()));
  // A kind and a code that do not exist.
  Answer(channel, 77, 0, "x");
  EXPECT_TRUE(absl::IsInternal((*caller)->Attach(null)));
  Answer(channel, kFailed, 4711, "x");
  EXPECT_TRUE(absl::IsInternal((*caller)->Attach(null)));
  // Half a message, and the end.
  ASSERT_EQ(write(channel.end.get(), "half", 4), 4);
  ASSERT_EQ(shutdown(channel.end.get(), SHUT_WR), 0);
  EXPECT_TRUE(absl::IsUnavailable((*caller)->Attach(null)));
}

}  // namespace
}  // namespace imagefs

// SPDX-License-Identifier: Apache-2.0
// What runs on the network's thread, and what does not: it would hold up every transfer.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/text.h"
#include "fetch/source.h"
#include "tests/fakes/fetch/fake_registry.h"
#include "tests/fakes/fetch/pending.h"

namespace imagefs {
namespace {

// Reads a blob of a registry, with something in its sink or at its end that blocks.
void ReadBlocking(bool in_the_sink) {
  const auto block = [] { (void)OpenFile("/proc/self/stat", O_RDONLY); };
  FakeRegistry server;
  Descriptor blob;
  blob.size = 1000;
  blob.digest = server.AddBlob("img", PatternBytes(1000));
  const auto factory = *SourceFactory::Create({});
  const auto source = *factory->Open(*Reference::Parse(StrCat(server.host(), "/img:1")), {});
  Pending<absl::Status> pending;
  source->ReadBlob(
      blob, {{0, 1000}}, nullptr, CancelToken(),
      [&](uint64_t, std::string_view) {
        if (in_the_sink) block();
        return absl::OkStatus();
      },
      [&, done = pending.Done()](absl::Status status) mutable {
        if (!in_the_sink) block();
        done(std::move(status));
      });
  (void)pending.Wait();
}

TEST(NetworkThreadDeathTest, BytesAndTheEndOfATransferDoNotBlock) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const char* const says = "opening a file, where network may not block";
  EXPECT_DEATH(ReadBlocking(/*in_the_sink=*/true), says);
  EXPECT_DEATH(ReadBlocking(/*in_the_sink=*/false), says);
}

}  // namespace
}  // namespace imagefs

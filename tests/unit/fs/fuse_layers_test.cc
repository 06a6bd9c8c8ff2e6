// SPDX-License-Identifier: Apache-2.0
// The file system of podman's additional layer store; the test plays the kernel.
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/stat.h>

#include <map>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "fs/fuse_loop.h"
#include "fs/layer_directory.h"
#include "gtest/gtest.h"
#include "tests/fakes/fs/fake_kernel.h"

namespace imagefs {
namespace {

// Knows the references "r" and "s". Lookups wait until the test answers them.
class FakeDirectory : public LayerDirectory {
 public:
  bool IsReference(std::string_view name) const override { return name == "r" || name == "s"; }
  FlightTicket Find(const std::string& reference, const std::string& layer,
                    LayerDone done) override {
    const std::string key = reference + "/" + layer;
    std::shared_ptr<const Layer> known;
    {
      absl::MutexLock lock(&mu_);
      if (const auto found = known_.find(key); found != known_.end()) {
        known = found->second;
      } else {
        waiting_[key] = std::move(done);
      }
    }
    if (known == nullptr) {
      return FlightTicket([this, key] { Answer(key, absl::CancelledError("left")); });
    }
    done(std::move(known));
    return FlightTicket();
  }
  void Use(const std::string& reference, const std::string& layer, Done done) override {
    Note(StrCat("use ", reference, "/", layer));
    done();
  }
  void Release(const std::string& reference, const std::string& layer, Done done) override {
    Note(StrCat("release ", reference, "/", layer));
    done();
  }

  void Know(const std::string& key, const std::string& tree) {
    absl::MutexLock lock(&mu_);
    known_[key] = std::make_shared<const Layer>(Layer{tree, "{\"info\": 1}", 4711});
  }
  void AwaitFind(const std::string& key) {
    auto asked = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return waiting_.contains(key); };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&asked));
  }
  void Answer(const std::string& key, absl::StatusOr<std::shared_ptr<const Layer>> layer) {
    LayerDone done;
    {
      absl::MutexLock lock(&mu_);
      const auto found = waiting_.find(key);
      if (found == waiting_.end()) return;
      done = std::move(found->second);
      waiting_.erase(found);
    }
    done(std::move(layer));
  }
  std::vector<std::string> notes() const {
    absl::MutexLock lock(&mu_);
    return notes_;
  }

 private:
  void Note(std::string text) {
    absl::MutexLock lock(&mu_);
    notes_.push_back(std::move(text));
  }
  mutable absl::Mutex mu_;
  std::map<std::string, std::shared_ptr<const Layer>> known_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, LayerDone> waiting_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> notes_ ABSL_GUARDED_BY(mu_);
};

class FuseLayersTest : public ::testing::Test {
 protected:
  FuseLayersTest() {
    SetLogLevel(LogLevel::kOff);
    auto loop = FuseLoop::Create({});
    EXPECT_TRUE(loop.ok());
    loop_ = *std::move(loop);
    auto session = loop_->ServeLayers(directory_, kernel_.TakeDevice(), [] {});
    EXPECT_TRUE(session.ok()) << session.status();
    session_ = *std::move(session);
    EXPECT_EQ(kernel_.Init().error, 0);
  }

  fuse_entry_out Entry(uint64_t parent, std::string_view name) {
    const FakeKernel::Reply reply = kernel_.Lookup(parent, name);
    EXPECT_EQ(reply.error, 0) << name;
    return reply.As<fuse_entry_out>();
  }
  uint64_t Layer() { return Entry(Entry(FUSE_ROOT_ID, "r").nodeid, "known").nodeid; }
  std::string Target(uint64_t link) { return kernel_.Call(FUSE_READLINK, link).body; }
  static std::string Name(std::string_view name) { return std::string(name) + '\0'; }

  std::shared_ptr<FakeDirectory> directory_ = std::make_shared<FakeDirectory>();
  FakeKernel kernel_;
  std::unique_ptr<FuseLoop> loop_;
  std::unique_ptr<FuseSession> session_;
};

TEST_F(FuseLayersTest, AKnownLayer) {
  directory_->Know("r/known", "/trees/1");
  EXPECT_EQ(kernel_.Lookup(FUSE_ROOT_ID, "x").error, ENOENT);
  const fuse_entry_out reference = Entry(FUSE_ROOT_ID, "r");
  EXPECT_EQ(reference.attr.mode, static_cast<uint32_t>(S_IFDIR | 0700)) << "for root only";
  EXPECT_EQ(reference.entry_valid, 0u) << "asked for again each time";
  const uint64_t layer = Layer();
  const fuse_entry_out diff = Entry(layer, "diff");
  EXPECT_EQ(diff.attr.mode, static_cast<uint32_t>(S_IFLNK | 0777));
  EXPECT_EQ(Target(diff.nodeid), "/trees/1");
  const fuse_entry_out info = Entry(layer, "info");
  EXPECT_EQ(info.attr.size, 11u);
  EXPECT_EQ(kernel_.ReadFile(info.nodeid, 0, 4096).body, "{\"info\": 1}");
  EXPECT_EQ(kernel_.ReadFile(info.nodeid, 8, 4096).body, " 1}");
  EXPECT_EQ(kernel_.ReadFile(info.nodeid, 100, 4096).body, "");
  const fuse_entry_out blob = Entry(layer, "blob");
  EXPECT_EQ(blob.attr.size, 4711u);
  EXPECT_EQ(kernel_.ReadFile(blob.nodeid, 0, 4096).error, EIO);
  EXPECT_EQ(kernel_.Lookup(layer, "use").error, ENOENT);
  EXPECT_EQ(kernel_.Lookup(info.nodeid, "x").error, ENOTDIR);
  EXPECT_EQ(kernel_.GetAttr(layer).error, 0);
  EXPECT_TRUE(kernel_.ReadWholeDir(FUSE_ROOT_ID, 4096, false).empty());
}

TEST_F(FuseLayersTest, WhoWaitsForALayerKeepsNobodyElseWaiting) {
  directory_->Know("r/known", "/trees/1");
  const uint64_t reference = Entry(FUSE_ROOT_ID, "r").nodeid;
  std::vector<uint64_t> waiting;
  for (int i = 0; i < 40; ++i) {
    const std::string name = StrCat("l", i);
    waiting.push_back(kernel_.Send(FUSE_LOOKUP, reference, Name(name)));
    directory_->AwaitFind("r/" + name);
  }
  // More of them than there are workers.
  EXPECT_EQ(Target(Entry(Layer(), "diff").nodeid), "/trees/1");
  directory_->Answer("r/l7", std::make_shared<const LayerDirectory::Layer>());
  FakeKernel::Reply reply = kernel_.Receive();
  EXPECT_EQ(reply.unique, waiting[7]);
  EXPECT_EQ(reply.error, 0);
  directory_->Answer("r/l8", absl::UnavailableError("the registry is down"));
  reply = kernel_.Receive();
  EXPECT_EQ(reply.unique, waiting[8]);
  EXPECT_EQ(reply.error, ENOENT) << "whatever the reason is, there is no layer";
  // An interrupted lookup leaves its flight.
  fuse_interrupt_in interrupt = {};
  interrupt.unique = waiting[9];
  kernel_.Send(FUSE_INTERRUPT, 0, BytesOf(interrupt));
  reply = kernel_.Receive();
  EXPECT_EQ(reply.unique, waiting[9]);
  EXPECT_EQ(reply.error, EINTR);
  for (int i = 0; i < 40; ++i) {
    directory_->Answer(StrCat("r/l", i), absl::CancelledError("the daemon ends"));
  }
}

TEST_F(FuseLayersTest, UsersAreCountedAndNothingIsMade) {
  directory_->Know("r/known", "/trees/1");
  const uint64_t reference = Entry(FUSE_ROOT_ID, "r").nodeid;
  const uint64_t layer = Layer();
  const std::string create = BytesOf(fuse_create_in{});
  EXPECT_EQ(kernel_.Call(FUSE_CREATE, layer, create + Name("use")).error, ENOENT);
  EXPECT_EQ(kernel_.Call(FUSE_CREATE, layer, create + Name("other")).error, EROFS);
  EXPECT_EQ(kernel_.Call(FUSE_CREATE, reference, create + Name("use")).error, EROFS);
  EXPECT_EQ(kernel_.Call(FUSE_RMDIR, reference, Name("known")).error, ENOENT);
  EXPECT_EQ(kernel_.Call(FUSE_RMDIR, FUSE_ROOT_ID, Name("r")).error, EROFS);
  EXPECT_EQ(kernel_.Call(FUSE_UNLINK, layer, Name("info")).error, EROFS);
  EXPECT_EQ(kernel_.Call(FUSE_MKDIR, FUSE_ROOT_ID, BytesOf(fuse_mkdir_in{}) + Name("s")).error,
            EROFS);
  EXPECT_EQ(directory_->notes(), (std::vector<std::string>{"use r/known", "release r/known"}));
}

TEST_F(FuseLayersTest, ATreeThatIsMountedElsewhereIsAnotherLink) {
  directory_->Know("r/known", "/trees/1");
  const uint64_t first = Entry(Layer(), "diff").nodeid;
  EXPECT_EQ(Entry(Layer(), "diff").nodeid, first);
  directory_->Know("r/known", "/trees/2");
  const uint64_t second = Entry(Layer(), "diff").nodeid;
  EXPECT_NE(second, first) << "the kernel keeps the target of a link";
  EXPECT_EQ(Target(second), "/trees/2");
  EXPECT_EQ(Target(first), "/trees/1");
  // Looked up twice, forgotten twice.
  fuse_forget_in forget = {2};
  kernel_.Send(FUSE_FORGET, first, BytesOf(forget));
  EXPECT_EQ(Target(second), "/trees/2");
  EXPECT_EQ(kernel_.GetAttr(first).error, ESTALE);
}

TEST(FuseWorkerDeathTest, DoesNotBlock) {
  class Opening : public FakeDirectory {
   public:
    FlightTicket Find(const std::string& reference, const std::string& layer,
                      LayerDone done) override {
      (void)OpenFile("/proc/self/stat", O_RDONLY);
      return FakeDirectory::Find(reference, layer, std::move(done));
    }
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        FakeKernel kernel;
        const auto loop = FuseLoop::Create({});
        const auto session =
            (*loop)->ServeLayers(std::make_shared<Opening>(), kernel.TakeDevice(), [] {});
        kernel.Init();
        const auto reference = kernel.Lookup(FUSE_ROOT_ID, "r").As<fuse_entry_out>();
        kernel.Lookup(reference.nodeid, "layer");
      },
      "opening a file, where fuse may not block");
}

}  // namespace
}  // namespace imagefs

// SPDX-License-Identifier: Apache-2.0
#include "snap/snapshotter.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "base/fd.h"
#include "base/log.h"
#include "base/text.h"
#include "snap/image_uses.h"
#include "tests/fakes/cache/damage.h"
#include "tests/fakes/fs/fake_store.h"
#include "tests/fakes/fs/test_chain.h"

namespace imagefs {
namespace {

using Mounts = std::vector<SnapshotMount>;

class SnapshotterTest : public ::testing::Test {
 protected:
  SnapshotterTest() : dir_(StrCat(::testing::TempDir(), "/snapshotter-", RandomHex(8))) {
    SetLogLevel(LogLevel::kOff);
    std::filesystem::create_directories(dir_);
    auto kv = KeyValueStore::Open(dir_ + "/db");
    EXPECT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
    TestChain tree;
    tree.inode("").mode = S_IFDIR | 0751;
    chain_ = tree.Build(dir_ + "/chain");
    store_.UseKv(kv_.get());
    store_.UseChain(chain_);
    store_.UseReference(kImage);
    for (size_t i = 0; i < 3; ++i) store_.SetState(i, LayerState::kWritten);
    Start();
  }
  ~SnapshotterTest() override {
    snapshotter_.reset();
    kv_.reset();
    std::filesystem::remove_all(dir_);
  }

  void Start() {
    snapshotter_.reset();
    const auto access_of = [this](const Reference&) { return access_; };
    uses_ = std::make_unique<ImageUses>(ImageUses::Deps{store_, mounts_, access_of, access_of});
    auto snapshotter =
        Snapshotter::Open({.directory = dir_ + "/snapshots",
                           .mapped_directory = dir_ + "/mapped",
                           .bind =
                               [this](const std::string& source, const std::string& directory,
                                      const MountFlags& flags) {
                                 binds_.push_back({source, directory, flags});
                                 return bind_status_;
                               },
                           .only_verified = only_verified_},
                          {store_, *uses_});
    ASSERT_TRUE(snapshotter.ok()) << snapshotter.status();
    snapshotter_ = *std::move(snapshotter);
    uses_->Recover();
    uses_->Serve();
  }

  // Waits for the result of an asynchronous call.
  template <typename T, typename Begin>
  static T Await(Begin begin) {
    std::promise<T> promise;
    begin([&](T result) { promise.set_value(std::move(result)); });
    return promise.get_future().get();
  }
  absl::StatusOr<Mounts> Prepare(const std::string& key, const std::string& parent,
                                 SnapshotLabels labels = {},
                                 SnapshotKind kind = SnapshotKind::kActive) {
    return Await<absl::StatusOr<Mounts>>([&](auto done) {
      snapshotter_->Prepare({key, parent, std::move(labels), kind}, std::move(done));
    });
  }
  absl::StatusOr<Mounts> MountsOf(const std::string& key) {
    return Await<absl::StatusOr<Mounts>>(
        [&](auto done) { snapshotter_->Mounts(key, std::move(done)); });
  }
  absl::Status Commit(const std::string& name, const std::string& key, SnapshotLabels labels = {}) {
    return Await<absl::Status>(
        [&](auto done) { snapshotter_->Commit(name, key, std::move(labels), std::move(done)); });
  }
  absl::Status Remove(const std::string& key) {
    return Await<absl::Status>([&](auto done) { snapshotter_->Remove(key, std::move(done)); });
  }
  absl::Status Cleanup() {
    return Await<absl::Status>([&](auto done) { snapshotter_->Cleanup(std::move(done)); });
  }
  absl::StatusOr<SnapshotUsage> Usage(const std::string& key) {
    return Await<absl::StatusOr<SnapshotUsage>>(
        [&](auto done) { snapshotter_->Usage(key, std::move(done)); });
  }
  absl::StatusOr<SnapshotInfo> Update(const std::string& name, SnapshotLabels labels,
                                      std::vector<std::string> paths) {
    return Await<absl::StatusOr<SnapshotInfo>>([&](auto done) {
      snapshotter_->Update(name, std::move(labels), std::move(paths), std::move(done));
    });
  }

  std::string Ref(size_t level) const { return store_.image().chain_ids[level].ToString(); }
  SnapshotLabels LayerOf(size_t level) const {
    return {
        {kRefLabel, Ref(level)},
        {"containerd.io/snapshot/cri.image-ref", kImage},
        {"containerd.io/snapshot/cri.manifest-digest", store_.image().manifest_digest.ToString()}};
  }
  // The one committed snapshot that containerd looks for after kAlreadyExists.
  std::string Hit(const std::string& ref, const std::string& parent) {
    const auto filter = SnapshotFilter::Parse(
        {StrCat("labels.\"", kRefLabel, "\"==", ref, ",parent==\"", parent, "\"")});
    EXPECT_TRUE(filter.ok());
    const std::vector<SnapshotInfo> found = snapshotter_->List(*filter);
    if (found.size() != 1 || found[0].kind != SnapshotKind::kCommitted) return "";
    return found[0].name;
  }
  // Prepares all three layers like containerd, and returns the name of the top one.
  std::string PullLazily() {
    std::string parent;
    for (size_t level = 0; level < 3; ++level) {
      const auto prepared = Prepare(StrCat("extract-", level), parent, LayerOf(level));
      EXPECT_TRUE(absl::IsAlreadyExists(prepared.status())) << prepared.status();
      parent = Hit(Ref(level), parent);
      EXPECT_NE(parent, "");
    }
    return parent;
  }
  uint64_t Counter(std::string_view name) const {
    for (const auto& [counter, value] : snapshotter_->Counters()) {
      if (counter == name) return value;
    }
    return 0;
  }
  std::string shown() const { return "/shown/" + chain_->chain_id.hex(); }
  static std::string Option(const Mounts& mounts, std::string_view prefix) {
    for (const std::string& option : mounts.at(0).options) {
      if (option.starts_with(prefix)) return option.substr(prefix.size());
    }
    return "(none)";
  }
  static bool Has(const Mounts& mounts, std::string_view option) {
    const auto& options = mounts.at(0).options;
    return std::find(options.begin(), options.end(), option) != options.end();
  }
  size_t Directories() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(dir_ + "/snapshots")) {
      ++count;
    }
    return count;
  }

  static constexpr char kImage[] = "registry.test/app:1";
  const std::string dir_;
  std::unique_ptr<KeyValueStore> kv_;
  ChainRef chain_;
  FakeImageStore store_{3};
  FakeMountTable mounts_;
  SourceFactory::Access access_;
  struct Bound {
    std::string source, directory;
    MountFlags flags;
  };
  std::vector<Bound> binds_;
  absl::Status bind_status_;
  bool only_verified_ = false;  // for the next Start
  std::unique_ptr<ImageUses> uses_;
  std::unique_ptr<Snapshotter> snapshotter_;
};

TEST_F(SnapshotterTest, OrdinarySnapshots) {
  auto base = Prepare("base", "");
  ASSERT_TRUE(base.ok()) << base.status();
  ASSERT_EQ(base->size(), 1u);
  EXPECT_EQ(base->at(0).type, "bind");
  EXPECT_EQ(base->at(0).options, (std::vector<std::string>{"rw", "rbind"}));
  const std::string lower = base->at(0).source;
  struct stat st;
  ASSERT_EQ(stat(lower.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0755u);
  ASSERT_EQ(chmod(lower.c_str(), 01700), 0);
  EXPECT_EQ(*MountsOf("base"), *base);
  ASSERT_TRUE(Commit("layer1", "base").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(MountsOf("layer1").status()));
  EXPECT_TRUE(absl::IsNotFound(MountsOf("base").status()));

  auto view = Prepare("view", "layer1", {}, SnapshotKind::kView);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->at(0).source, lower);
  EXPECT_EQ(view->at(0).options, (std::vector<std::string>{"ro", "rbind"}));

  auto second = Prepare("second", "layer1");
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->at(0).type, "overlay");
  EXPECT_EQ(second->at(0).source, "overlay");
  EXPECT_EQ(Option(*second, "lowerdir="), lower);
  const std::string upper = Option(*second, "upperdir=");
  ASSERT_EQ(stat(upper.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 01700u) << "an upper root looks like its parent's";
  EXPECT_EQ(stat(Option(*second, "workdir=").c_str(), &st), 0);
  ASSERT_TRUE(Commit("layer2", "second").ok());

  auto deep = Prepare("deep", "layer2", {}, SnapshotKind::kView);
  ASSERT_TRUE(deep.ok());
  EXPECT_EQ(Option(*deep, "lowerdir="), upper + ":" + lower);
  EXPECT_EQ(Option(*deep, "upperdir="), "(none)");
  EXPECT_TRUE(store_.resolve_calls() == 0 && mounts_.leases().empty());
}

TEST_F(SnapshotterTest, EveryLayerIsAnsweredLazily) {
  const std::string top = PullLazily();
  EXPECT_EQ(Counter("snapshot_layers_lazy"), 3u);
  EXPECT_EQ(Counter("snapshot_layers_unpacked"), 0u);
  EXPECT_EQ(Directories(), 0u) << "nothing is unpacked";
  // The second pull finds the same snapshots.
  EXPECT_EQ(PullLazily(), top);
  EXPECT_EQ(Counter("snapshots"), 3u);
  EXPECT_TRUE(mounts_.leases().empty()) << "nothing is shown before somebody wants to see it";
}

TEST_F(SnapshotterTest, AContainerIsAnOverlayOverOneTree) {
  const std::string top = PullLazily();
  auto container = Prepare("container", top);
  ASSERT_TRUE(container.ok()) << container.status();
  EXPECT_EQ(Option(*container, "lowerdir="), shown());
  EXPECT_TRUE(Has(*container, "index=off"));
  struct stat st;
  ASSERT_EQ(stat(Option(*container, "upperdir=").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0751u) << "as the root of the image";
  EXPECT_EQ(*MountsOf("container"), *container);
  EXPECT_EQ(mounts_.leases(), (std::map<std::string, int>{{chain_->chain_id.hex(), 1}}));

  // A snapshot committed on top uses the same tree.
  const std::string upper = Option(*container, "upperdir=");
  ASSERT_TRUE(Commit("commit", "container").ok());
  auto next = Prepare("next", "commit");
  ASSERT_TRUE(next.ok());
  EXPECT_EQ(Option(*next, "lowerdir="), upper + ":" + shown());

  auto view = Prepare("view", top, {}, SnapshotKind::kView);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ(view->at(0).type, "bind");
  EXPECT_EQ(view->at(0).source, shown());
  ASSERT_TRUE(Remove("next").ok());
  ASSERT_TRUE(Remove("view").ok());
  ASSERT_TRUE(Remove("commit").ok());
  ASSERT_TRUE(Cleanup().ok());
  EXPECT_EQ(mounts_.leases(), (std::map<std::string, int>{{chain_->chain_id.hex(), 1}}))
      << "the next container finds the tree warm";
  for (std::string name = top; !name.empty();) {
    const auto layer = snapshotter_->Stat(name);
    ASSERT_TRUE(layer.ok()) << layer.status();
    ASSERT_TRUE(Remove(name).ok());
    name = layer->parent;
  }
  ASSERT_TRUE(Cleanup().ok());
  EXPECT_TRUE(mounts_.leases().empty()) << "the image has gone";
}

TEST_F(SnapshotterTest, WhatCannotBeHadIsUnpacked) {
  store_.FailResolve(absl::UnavailableError("the registry is away"));
  auto prepared = Prepare("extract", "", LayerOf(0));
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->at(0).type, "bind");
  EXPECT_EQ(Counter("snapshot_layers_unpacked"), 1u);
  // The fallback is found by its labels, which the commit sets again.
  ASSERT_TRUE(Commit("k8s.io/3/sha256:aa", "extract", LayerOf(0)).ok());
  EXPECT_EQ(Hit(Ref(0), ""), "k8s.io/3/sha256:aa");
  // A layer above it may still be lazy: its tree is that of the whole stack.
  store_.FailResolve(absl::OkStatus());
  EXPECT_TRUE(Prepare("extract-1", "k8s.io/3/sha256:aa", LayerOf(1)).ok());
  EXPECT_EQ(store_.resolve_calls(), 1) << "the same pull does not wait for the same failure again";
  access_.credential.username = "another";
  EXPECT_TRUE(
      absl::IsAlreadyExists(Prepare("extract-2", "k8s.io/3/sha256:aa", LayerOf(1)).status()));
}

TEST_F(SnapshotterTest, WhatVerifiersDenyIsNotUnpacked) {
  store_.FailResolve(ImageDenied(kImage, "nobody has signed it", "sign it"));
  for (int i = 0; i < 2; ++i) {
    const absl::Status denied = Prepare("extract", "", LayerOf(0)).status();
    EXPECT_TRUE(absl::IsPermissionDenied(denied)) << denied;
    EXPECT_NE(denied.message().find("nobody has signed it"), absl::string_view::npos) << denied;
  }
  EXPECT_EQ(store_.resolve_calls(), 2) << "a denial is not remembered";
  EXPECT_EQ(Counter("snapshot_layers_unpacked"), 0u);
  EXPECT_TRUE(snapshotter_->empty());
  // A registry that forbids it to this node is another matter.
  store_.FailResolve(absl::PermissionDeniedError("log in"));
  EXPECT_TRUE(Prepare("extract", "", LayerOf(0)).ok());
}

TEST_F(SnapshotterTest, WhatIsNotVerifiedIsNotUnpackedIfThatIsRequired) {
  only_verified_ = true;
  Start();
  store_.FailResolve(absl::UnavailableError("the registry is away"));
  const absl::Status away = Prepare("a", "", LayerOf(0)).status();
  EXPECT_TRUE(IsImageDenied(away)) << away;
  EXPECT_NE(away.message().find("the registry is away"), absl::string_view::npos) << away;
  EXPECT_TRUE(IsImageDenied(Prepare("b", "", {{kRefLabel, Ref(0)}}).status()));
  EXPECT_TRUE(IsImageDenied(Prepare("ns/1/extract-2 sha256:aa", "").status()));
  EXPECT_TRUE(snapshotter_->empty());
  store_.FailResolve(absl::OkStatus());
  access_.credential.username = "another";
  const std::string top = PullLazily();
  EXPECT_TRUE(Prepare("ns/2/container", top).ok());
  EXPECT_TRUE(Prepare("ns/3/view", top, {}, SnapshotKind::kView).ok());
}

TEST_F(SnapshotterTest, OtherReasonsToUnpack) {
  store_.FailChain(absl::DataLossError("a layer is not what it should be"));
  EXPECT_TRUE(Prepare("a", "", LayerOf(0)).ok());
  store_.FailChain(absl::OkStatus());
  access_.credential.username = "another";
  SnapshotLabels labels = LayerOf(0);
  labels[kRefLabel] = Sha256Of("no layer of this image").ToString();
  EXPECT_TRUE(Prepare("b", "", labels).ok());
  EXPECT_TRUE(Prepare("c", "", LayerOf(1)).ok()) << "the second layer does not lie at the bottom";
  ASSERT_TRUE(Commit("unlabelled", "a").ok());
  EXPECT_TRUE(Prepare("d", "unlabelled", LayerOf(1)).ok()) << "what is that parent?";
  EXPECT_EQ(Counter("snapshot_layers_unpacked"), 4u);
  EXPECT_TRUE(Prepare("e", "", {{kRefLabel, Ref(0)}}).ok()) << "labels that name no image";
  EXPECT_EQ(Counter("snapshot_layers_unpacked"), 4u);
  EXPECT_TRUE(absl::IsNotFound(Prepare("f", "nobody", LayerOf(1)).status()));
}

TEST_F(SnapshotterTest, ACallerThatGoesLeavesTheImage) {
  store_.HoldChain();
  std::promise<absl::Status> answer;
  const FlightTicket ticket = snapshotter_->Prepare(
      {"extract", "", LayerOf(0), SnapshotKind::kActive},
      [&](const absl::StatusOr<Mounts>& mounts) { answer.set_value(mounts.status()); });
  store_.AwaitChainCalls(1);
  ticket.Leave();
  EXPECT_TRUE(absl::IsCancelled(answer.get_future().get()));
  store_.AwaitChainCancelled();
  EXPECT_EQ(Counter("snapshots"), 0u);
  EXPECT_EQ(Directories(), 0u);
  store_.ReleaseChain();
  EXPECT_TRUE(absl::IsAlreadyExists(Prepare("extract", "", LayerOf(0)).status()));
}

TEST_F(SnapshotterTest, TheLastSnapshotLetsTheImageGo) {
  const std::string top = PullLazily();
  EXPECT_EQ(store_.ListHeld("snapshots")->size(), 1u);
  const std::string middle = snapshotter_->Stat(top)->parent;
  const std::string bottom = snapshotter_->Stat(middle)->parent;
  EXPECT_TRUE(absl::IsFailedPrecondition(Remove(middle)));
  ASSERT_TRUE(Remove(top).ok());
  ASSERT_TRUE(Remove(middle).ok());
  ASSERT_TRUE(Cleanup().ok());
  EXPECT_EQ(store_.ListHeld("snapshots")->size(), 1u);
  EXPECT_EQ(store_.collects(), 0);
  ASSERT_TRUE(Remove(bottom).ok());
  ASSERT_TRUE(Cleanup().ok());
  EXPECT_TRUE(store_.ListHeld("snapshots")->empty());
  EXPECT_GE(store_.collects(), 1);
}

TEST_F(SnapshotterTest, ARestartKnowsEverything) {
  const std::string top = PullLazily();
  const auto container = Prepare("container", top, {{"x", "y"}});
  ASSERT_TRUE(container.ok());
  const auto before = snapshotter_->List(SnapshotFilter());
  while (!mounts_.leases().empty()) mounts_.Release(chain_->chain_id.hex());  // its process is gone
  mounts_.Outlive(chain_->chain_id);
  store_.FailResolve(absl::UnavailableError("no network"));
  Start();
  const auto after = snapshotter_->List(SnapshotFilter());
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_EQ(before[i].name, after[i].name);
    EXPECT_EQ(before[i].labels, after[i].labels);
    EXPECT_EQ(before[i].created_ns, after[i].created_ns);
  }
  EXPECT_EQ(mounts_.leases(), (std::map<std::string, int>{{chain_->chain_id.hex(), 1}}))
      << "the tree of the container is kept";
  EXPECT_EQ(*MountsOf("container"), *container);
  snapshotter_->ReleaseAll();
  EXPECT_TRUE(mounts_.leases().empty());
}

TEST_F(SnapshotterTest, WhatACrashLeftIsRepaired) {
  const auto kept = Prepare("kept", "");
  ASSERT_TRUE(kept.ok());
  snapshotter_.reset();
  std::filesystem::create_directories(dir_ + "/snapshots/99/fs/stray");
  std::filesystem::create_directories(dir_ + "/snapshots/removed-7/fs");
  std::filesystem::remove_all(std::filesystem::path(kept->at(0).source).parent_path());
  Start();
  ASSERT_TRUE(Cleanup().ok());
  EXPECT_EQ(Directories(), 1u);
  EXPECT_TRUE(std::filesystem::exists(MountsOf("kept")->at(0).source));
}

TEST_F(SnapshotterTest, UpdatesGoByTheMask) {
  ASSERT_TRUE(Prepare("a", "", {{"one", "1"}, {"two", "2"}}).ok());
  EXPECT_EQ(Update("a", {{"one", "x"}, {"three", "3"}}, {"labels.one", "labels.two"})->labels,
            (SnapshotLabels{{"one", "x"}}));
  EXPECT_EQ(Update("a", {{"a.b/c", "d"}}, {"labels.a.b/c"})->labels,
            (SnapshotLabels{{"one", "x"}, {"a.b/c", "d"}}));
  EXPECT_EQ(Update("a", {{"all", "new"}}, {"labels"})->labels, (SnapshotLabels{{"all", "new"}}));
  EXPECT_EQ(Update("a", {}, {})->labels, SnapshotLabels());
  EXPECT_TRUE(absl::IsInvalidArgument(Update("a", {}, {"parent"}).status()));
  EXPECT_TRUE(absl::IsNotFound(Update("b", {}, {}).status()));
  const auto info = snapshotter_->Stat("a");
  EXPECT_GT(info->updated_ns, info->created_ns);
}

TEST_F(SnapshotterTest, UsageIsWhatLiesOnDisk) {
  const auto mounts = Prepare("a", "");
  ASSERT_TRUE(mounts.ok());
  const auto empty = Usage("a");
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(empty->inodes, 1);
  const std::string file = mounts->at(0).source + "/file";
  std::ofstream(file) << std::string(100'000, 'x');
  ASSERT_EQ(link(file.c_str(), (file + "2").c_str()), 0);
  const auto full = Usage("a");
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(full->inodes, 2) << "a hard link counts once";
  EXPECT_GE(full->bytes - empty->bytes, 100'000);
  EXPECT_LT(full->bytes - empty->bytes, 200'000);
  EXPECT_TRUE(absl::IsNotFound(Usage("none").status()));
}

TEST_F(SnapshotterTest, IdMapsAreOfTheLowersAndTheRoot) {
  const std::string top = PullLazily();
  const SnapshotLabels labels = {{kUidMapLabel, "0:100000:65536"},
                                 {kGidMapLabel, "0:200000:65536"}};
  const auto mounts = Prepare("a", top, labels);
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  ASSERT_EQ(binds_.size(), 1u);
  EXPECT_EQ(binds_[0].flags.id_map, "0:100000:65536");
  EXPECT_EQ(binds_[0].flags.gid_map, "0:200000:65536");
  EXPECT_EQ(Option(*mounts, "lowerdir="), binds_[0].directory);
  EXPECT_TRUE(std::filesystem::exists(binds_[0].directory));
  EXPECT_FALSE(Has(*mounts, "uidmap=0:100000:65536")) << "it would be mapped twice";
  struct stat st;
  ASSERT_EQ(stat(Option(*mounts, "upperdir=").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 100'000u);
  EXPECT_EQ(st.st_gid, 200'000u);

  Start();
  EXPECT_TRUE(std::filesystem::exists(binds_[0].directory)) << "it may be about to be mounted";
  ASSERT_TRUE(MountsOf("a").ok());
  ASSERT_EQ(binds_.size(), 2u);
  EXPECT_EQ(binds_[1].directory, binds_[0].directory);
  ASSERT_TRUE(Remove("a").ok());
  EXPECT_TRUE(std::filesystem::is_empty(dir_ + "/mapped"));
}

TEST_F(SnapshotterTest, WhatIsCommittedOnTopIsMappedToo) {
  const std::string top = PullLazily();
  ASSERT_TRUE(Prepare("a", top).ok());
  ASSERT_TRUE(Commit("layer", "a").ok());
  const SnapshotLabels labels = {{kUidMapLabel, "0:100000:10,10:200000:10"},
                                 {kGidMapLabel, "0:100000:10,10:200000:10"}};
  const auto mounts = Prepare("b", "layer", labels);
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  ASSERT_EQ(binds_.size(), 2u);
  EXPECT_EQ(Option(*mounts, "lowerdir="), StrCat(binds_[0].directory, ":", binds_[1].directory));
  ASSERT_TRUE(Commit("layer2", "b").ok());
  snapshotter_.reset();  // ends what runs after the answer
  EXPECT_TRUE(std::filesystem::is_empty(dir_ + "/mapped"));
}

TEST_F(SnapshotterTest, IdMapsThatCannotBeAreRefused) {
  const std::string top = PullLazily();
  for (const char* bad : {"", "0:1", "0:1:2:3", "a:b:c", "0:1:2,", "0:1:2,upperdir=/etc"}) {
    const auto refused =
        Prepare(StrCat("bad", bad), top, {{kUidMapLabel, bad}, {kGidMapLabel, "0:1:2"}});
    EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << bad;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Prepare("one", top, {{kUidMapLabel, "0:1:2"}}).status()));
  bind_status_ = absl::FailedPreconditionError("not this file system");
  const auto refused =
      Prepare("fuse", top, {{kUidMapLabel, "0:100000:10"}, {kGidMapLabel, "0:100000:10"}});
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status()));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ + "/mapped"));
  EXPECT_TRUE(absl::IsNotFound(snapshotter_->Stat("fuse").status()));
}

TEST_F(SnapshotterTest, AFailedShowLeavesNothing) {
  const std::string top = PullLazily();
  mounts_.FailMount(absl::InternalError("mount: no"));
  EXPECT_EQ(Prepare("a", top).status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(absl::IsNotFound(snapshotter_->Stat("a").status()));
  ASSERT_TRUE(Cleanup().ok());
  EXPECT_EQ(Directories(), 0u);
  mounts_.FailMount(absl::OkStatus());
  EXPECT_TRUE(Prepare("a", top).ok()) << "the key is free";
}

TEST_F(SnapshotterTest, FilesOfADamagedRecordAreKept) {
  ASSERT_TRUE(Prepare("container", "").ok());
  ASSERT_TRUE(Prepare("other", "").ok());
  const std::string files = dir_ + "/snapshots/1/fs";
  ASSERT_TRUE(WriteFileDurably(files + "/work", "of a container").ok());
  snapshotter_.reset();
  kv_.reset();
  ASSERT_TRUE(DamageRecord(dir_ + "/db", "snapshot/container"));
  kv_ = *KeyValueStore::Open(dir_ + "/db");
  store_.UseKv(kv_.get());
  Start();
  EXPECT_FALSE(snapshotter_->Stat("container").ok());
  EXPECT_TRUE(snapshotter_->Stat("other").ok()) << "one damaged record is one record";
  std::string kept;
  for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/snapshots")) {
    const std::string name = entry.path().filename();
    if (name.starts_with("lost-1-")) kept = entry.path();
  }
  ASSERT_FALSE(kept.empty()) << "the directory is not swept";
  EXPECT_EQ(*ReadFile(kept + "/fs/work", 100), "of a container");
  // The name and the number may be reused.
  EXPECT_TRUE(Prepare("container", "").ok());
  EXPECT_TRUE(Prepare("third", "").ok());
  EXPECT_EQ(*ReadFile(kept + "/fs/work", 100), "of a container");
}

}  // namespace
}  // namespace imagefs

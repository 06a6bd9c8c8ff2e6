// SPDX-License-Identifier: Apache-2.0
#include "snap/podman_store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>

#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "tests/fakes/fs/fake_store.h"

namespace imagefs {
namespace {

constexpr char kName[] = "registry.test/app:1";

class PodmanStoreTest : public ::testing::Test {
 protected:
  PodmanStoreTest() : dir_(StrCat(::testing::TempDir(), "/podman-", RandomHex(8))) {
    SetLogLevel(LogLevel::kOff);
    std::filesystem::create_directories(dir_);
    auto kv = KeyValueStore::Open(dir_ + "/db");
    EXPECT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
    store_.UseKv(kv_.get());
    for (size_t i = 0; i < 2; ++i) store_.SetState(i, LayerState::kWritten);
    Start();
  }
  ~PodmanStoreTest() override {
    podman_.reset();
    kv_.reset();
    std::filesystem::remove_all(dir_);
  }

  void Start() {
    podman_.reset();
    const auto access_of = [](const Reference&) { return SourceFactory::Access(); };
    uses_ = std::make_unique<ImageUses>(ImageUses::Deps{store_, mounts_, access_of, access_of});
    auto podman = PodmanStore::Open(dir_ + "/podman", {store_, *uses_});
    ASSERT_TRUE(podman.ok()) << podman.status();
    podman_ = *std::move(podman);
    uses_->Recover();
    uses_->Serve();
  }

  ImageRef Image() const { return std::make_shared<ResolvedImage>(store_.image()); }
  absl::StatusOr<ImageUses::Use> Fetch() {
    std::promise<absl::StatusOr<ImageUses::Use>> promise;
    podman_->Fetch(Image(), nullptr, Priority::kForeground,
                   [&](auto fetched) { promise.set_value(std::move(fetched)); });
    return promise.get_future().get();
  }
  absl::Status Add(const std::string& name) {
    const auto fetched = Fetch();
    return fetched.ok() ? podman_->Add(name, kName, *fetched).status() : fetched.status();
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(StrCat(dir_, "/podman/", name));
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // The names that podman would find.
  std::vector<std::string> Names() const {
    std::vector<std::string> out;
    const auto json = Json::Parse(Read("overlay-images/images.json"));
    EXPECT_TRUE(json.ok());
    if (!json.ok()) return out;
    for (const Json& image : json->elements()) {
      for (const Json& name : image["names"].elements()) out.push_back(*name.string());
    }
    return out;
  }
  size_t Layers() const {
    const auto json = Json::Parse(Read("overlay-layers/layers.json"));
    return json.ok() ? json->size() : 99;
  }
  size_t Held() const { return store_.ListHeld("podman")->size(); }
  std::string LayerDirectory() const {
    return StrCat(dir_, "/podman/overlay/", PodmanLayers(store_.image()).back().id);
  }

  const std::string dir_;
  std::unique_ptr<KeyValueStore> kv_;
  FakeImageStore store_{2};
  FakeMountTable mounts_;
  std::unique_ptr<ImageUses> uses_;
  std::unique_ptr<PodmanStore> podman_;
};

using Strings = std::vector<std::string>;

TEST_F(PodmanStoreTest, ThereIsAStoreBeforeThereAreImages) {
  EXPECT_EQ(Read("overlay-images/images.json"), "[]");
  EXPECT_EQ(Read("overlay-layers/layers.json"), "[]");
  EXPECT_EQ(Read("overlay-images/images.lock").size(), 64u);
  EXPECT_EQ(Read("overlay-layers/layers.lock").size(), 64u);
}

TEST_F(PodmanStoreTest, AnImageIsAllThere) {
  ASSERT_TRUE(Add(kName).ok());
  EXPECT_EQ(Names(), Strings{kName});
  EXPECT_EQ(Layers(), 2u);
  const std::string chain = store_.image().chain_id().hex();
  EXPECT_EQ(std::filesystem::read_symlink(LayerDirectory() + "/diff"), "/shown/" + chain);
  for (const PodmanLayer& layer : PodmanLayers(store_.image())) {
    EXPECT_EQ(std::filesystem::read_symlink(StrCat(dir_, "/podman/overlay/l/", layer.link)),
              StrCat("../", layer.id, "/diff"));
    EXPECT_EQ(Read(StrCat("overlay/", layer.id, "/link")), layer.link);
    EXPECT_TRUE(
        std::filesystem::is_directory(StrCat(dir_, "/podman/overlay/", layer.id, "/empty")));
  }
  const std::string lower =
      StrCat(dir_, "/podman/overlay/", PodmanLayers(store_.image()).front().id, "/diff");
  EXPECT_TRUE(std::filesystem::is_empty(lower));
  PodmanImage image;
  image.manifests = {Image()};
  for (const auto& [key, bytes] : PodmanDocuments(image)) {
    EXPECT_EQ(Read(StrCat("overlay-images/", PodmanImageId(*Image()), "/", PodmanFileName(key))),
              bytes);
  }
  EXPECT_EQ(mounts_.leases(), (std::map<std::string, int>{{chain, 1}}));
  EXPECT_EQ(Held(), 1u);
}

TEST_F(PodmanStoreTest, EachChangeIsMarked) {
  Strings marks = {Read("overlay-images/images.lock")};
  ASSERT_TRUE(Add(kName).ok());
  marks.push_back(Read("overlay-images/images.lock"));
  ASSERT_TRUE(Add("localhost/other:1").ok());
  marks.push_back(Read("overlay-images/images.lock"));
  const std::string layers = Read("overlay-layers/layers.lock");
  ASSERT_TRUE(podman_->Drop({kName}).ok());
  marks.push_back(Read("overlay-images/images.lock"));
  EXPECT_EQ(std::set<std::string>(marks.begin(), marks.end()).size(), 4u);
  EXPECT_EQ(Read("overlay-layers/layers.lock"), layers) << "nothing of the layers has changed";
  // Adding the same again changes nothing, also in another second.
  absl::SleepFor(absl::Milliseconds(1100));
  ASSERT_TRUE(Add("localhost/other:1").ok());
  EXPECT_EQ(Read("overlay-images/images.lock"), marks.back());
}

TEST_F(PodmanStoreTest, TheLastNameTakesTheImageWithIt) {
  ASSERT_TRUE(Add(kName).ok());
  ASSERT_TRUE(Add("localhost/other:1").ok());
  EXPECT_EQ(Names(), (Strings{"localhost/other:1", kName}));
  EXPECT_EQ(Layers(), 2u);
  ASSERT_TRUE(podman_->Drop({kName}).ok());
  EXPECT_EQ(Held(), 1u);
  EXPECT_EQ(mounts_.leases().size(), 1u);
  ASSERT_TRUE(podman_->Drop({"localhost/other:1"}).ok());
  EXPECT_EQ(Names(), Strings{});
  EXPECT_EQ(Layers(), 0u);
  EXPECT_EQ(Held(), 0u);
  EXPECT_TRUE(mounts_.leases().empty());
  EXPECT_FALSE(std::filesystem::exists(LayerDirectory()));
  EXPECT_GT(store_.collects(), 0);
}

TEST_F(PodmanStoreTest, DropTakesReferencesAndKnowsWhatItWasNotGiven) {
  ASSERT_TRUE(Add("localhost/a:1").ok());
  ASSERT_TRUE(Add("localhost/b:1").ok());
  const auto unknown = podman_->Drop({"localhost/a:1", "localhost/c:1"});
  EXPECT_TRUE(absl::IsNotFound(unknown.status()));
  EXPECT_NE(unknown.status().message().find("localhost/c:1"), std::string::npos);
  EXPECT_EQ(Names().size(), 2u) << "one that is unknown, and nothing is done";
  ASSERT_TRUE(podman_->Drop({kName}).ok()) << "what both were given for";
  EXPECT_EQ(Names(), Strings{});
}

TEST_F(PodmanStoreTest, ARestartShowsItAgain) {
  ASSERT_TRUE(Add(kName).ok());
  const std::string before = Read("overlay-images/images.json");
  podman_->Leave(/*hide=*/false);
  EXPECT_EQ(Names(), Strings{kName}) << "the kernel shows it";
  mounts_.Release(store_.image().chain_id().hex());  // its process is gone
  mounts_.Outlive(store_.image().chain_id());
  Start();
  EXPECT_EQ(Read("overlay-images/images.json"), before);
  EXPECT_EQ(mounts_.leases().size(), 1u);
  const auto list = podman_->List();
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].name, kName);
  EXPECT_EQ(list[0].manifest, store_.image().manifest_digest);
  EXPECT_NE(list[0].chain, nullptr);
  EXPECT_NE(podman_->Find(kName, Platform::Host()), nullptr);
}

TEST_F(PodmanStoreTest, AStartReplacesNothingThatStillHolds) {
  const Strings names = {"overlay-images/images", "overlay-layers/layers"};
  const auto path = [this](const std::string& name) { return StrCat(dir_, "/podman/", name); };
  Strings marks;
  for (const std::string& name : names) {
    std::filesystem::create_hard_link(path(name) + ".json", StrCat(dir_, "/", marks.size()));
    marks.push_back(Read(name + ".lock"));
  }
  Start();
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_TRUE(std::filesystem::equivalent(path(names[i]) + ".json", StrCat(dir_, "/", i)));
    EXPECT_NE(Read(names[i] + ".lock"), marks[i]) << "the previous daemon may not have come to it";
  }
  std::ofstream(path(names[0]) + ".json") << "[{}]";
  Start();
  EXPECT_EQ(Names(), Strings{});
}

TEST_F(PodmanStoreTest, HiddenItIsThereAgainAfterARestart) {
  ASSERT_TRUE(Add(kName).ok());
  podman_->Leave(/*hide=*/true);
  EXPECT_EQ(Names(), Strings{});
  EXPECT_TRUE(mounts_.leases().empty());
  EXPECT_TRUE(absl::IsCancelled(Add(kName))) << "nothing is added any more";
  Start();
  EXPECT_EQ(Names(), Strings{kName});
}

TEST_F(PodmanStoreTest, LayersThatAreLostAreFetchedAgain) {
  ASSERT_TRUE(Add(kName).ok());
  podman_.reset();
  store_.FailChain(absl::NotFoundError("lost"));
  Start();
  // The registry does not have it any more, either.
  EXPECT_EQ(Names(), Strings{});
  ASSERT_EQ(podman_->List().size(), 1u);
  EXPECT_EQ(podman_->List()[0].chain, nullptr);
  podman_.reset();
  EXPECT_EQ(Held(), 1u);
  store_.HoldChain();
  Start();
  store_.FailChain(absl::OkStatus());
  store_.ReleaseChain();
  for (int i = 0; i < 1000 && Names().empty(); ++i) usleep(10'000);
  EXPECT_EQ(Names(), Strings{kName});
}

TEST_F(PodmanStoreTest, WhatCannotBeShownIsNotAdded) {
  mounts_.FailMount(absl::FailedPreconditionError("no mounts here"));
  const absl::Status status = Add(kName);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_EQ(Names(), Strings{});
  EXPECT_TRUE(podman_->List().empty());
  mounts_.FailMount(absl::OkStatus());
  EXPECT_TRUE(Add(kName).ok());
}

TEST_F(PodmanStoreTest, WhatCannotBeWrittenIsUndone) {
  ASSERT_TRUE(Add("localhost/old:1").ok());
  const std::string images = dir_ + "/podman/overlay-images";
  std::filesystem::rename(images, images + ".away");
  std::ofstream(images) << "in the way";
  EXPECT_FALSE(Add(kName).ok());
  ASSERT_EQ(podman_->List().size(), 1u);
  EXPECT_EQ(podman_->List()[0].name, "localhost/old:1");
  std::filesystem::remove(images);
  std::filesystem::rename(images + ".away", images);
  ASSERT_TRUE(Add(kName).ok());
  EXPECT_EQ(Names(), (Strings{"localhost/old:1", kName}));
  EXPECT_EQ(mounts_.leases().size(), 1u);
}

TEST_F(PodmanStoreTest, WhatNobodyAddsIsLetGo) {
  store_.HoldChain();
  std::promise<absl::Status> promise;
  const FlightTicket ticket =
      podman_->Fetch(Image(), nullptr, Priority::kForeground,
                     [&](auto fetched) { promise.set_value(fetched.status()); });
  ticket.Leave();
  EXPECT_TRUE(absl::IsCancelled(promise.get_future().get()));
  store_.ReleaseChain();
  ASSERT_TRUE(Fetch().ok());  // and released immediately
  podman_.reset();            // waits for running calls
  EXPECT_EQ(Held(), 0u);
  Start();
  EXPECT_TRUE(podman_->List().empty());
}

TEST_F(PodmanStoreTest, StraysGo) {
  ASSERT_TRUE(Add(kName).ok());
  for (const char* stray : {"overlay/stray/diff", "overlay/l/STRAY",
                            "overlay-images/stray/manifest", "overlay-layers/layers.json.tmp-1"}) {
    const std::string path = StrCat(dir_, "/podman/", stray);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << "x";
  }
  Start();
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/podman/overlay/stray"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/podman/overlay/l/STRAY"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/podman/overlay-images/stray"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/podman/overlay-layers/layers.json.tmp-1"));
  EXPECT_EQ(Names(), Strings{kName});
}

}  // namespace
}  // namespace imagefs

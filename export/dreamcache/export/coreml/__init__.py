"""Core ML: conversion, compression, and an interpreter that checks a saved program where Core ML itself cannot run."""
